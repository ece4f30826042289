#!/bin/bash
# pipe.sh CORE JOBS...: runs jobs of the study one after another on a core. A job is a path below experiments/claims without .gin,
# with :SEED if it has one, or a file of experiments. Writes to runs/claims_runs/NAME, log NAME.log, and done.txt.
core=$1; shift; root=$(cd "$(dirname "$0")/.." && pwd); out=$root/runs/claims_runs; mkdir -p $out; cd $root
for job in "$@"; do
  name=${job%%:*}; seed=${job#*:}; [ "$seed" = "$job" ] && seed=0
  file=experiments/claims/$name.gin; [ -f gin/$file ] || file=experiments/$name.gin
  dir=$out/${name//\//-}; [ $seed != 0 ] && dir=$dir-$seed
  [ -d $dir/bundle ] && continue
  extra=(); [ $seed != 0 ] && extra+=(--gin.SEED=$seed); [ $name = scenes_ctc_from_best_rq ] && extra+=(--gin.INITIAL_CHECKPOINT="'$out/scenes_best_rq'")
  taskset -c $core .venv/bin/python -m slm_jax.train --gin_file=$file --gin.MODEL_DIR="'$dir'" "${extra[@]}" > $dir.log 2>&1
  echo "$(date +%T) $job $?" >> $out/done.txt
done
