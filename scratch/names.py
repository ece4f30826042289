import sys, collections, jax, numpy as np, gin
from slm_jax.resources import gin_folder
gin.config._LOCATION_PREFIXES[:]=[str(gin_folder())+"/",""]
gin.parse_config_files_and_bindings(["experiments/scenes_ctc.gin"],["MODEL_DIR='unused'"])
from slm_jax.training.run import Training
from slm_jax.training import restore
from slm_jax import convert
from slm_jax.evaluation import CTCEvaluation
from slm_jax.data import word_errors
from slm_jax.tasks.spoken_scenes import names
t=gin.get_configurable(Training)()
enc=t.objective.ctc.speech_encoder
def load(d):
    s=restore.read_initial(d); print(s.origin if hasattr(s,'origin') else s[0] if isinstance(s,tuple) else d)
    p=s.parameters if hasattr(s,'parameters') else s.params
    return {"speech_encoder":p["speech_encoder"]}
params=convert.mean([jax.tree.map(np.asarray,load(d)) for d in sys.argv[1:]])
L={'speech':104000,'inputs':24,'targets':24}
ev=CTCEvaluation(task='scenes_claims_transcribe',split='test',task_feature_lengths=L,batch_size=50)
r=ev.run(ev.predict(enc),params)
tg=[p.target for p in r.predictions]; pr=[p.prediction for p in r.predictions]
n,o=word_errors.word_errors(tg,pr,chosen=set(names.HELD_OUT_NAMES))
print("WER",round(r.scores['wer'],2),"names",round(word_errors.error_rate(n),1),"others",round(word_errors.error_rate(o),2), flush=True)
k=0
for a,b in zip(tg,pr):
    if a!=b and k<12: k+=1; print("  ",a,"|",b)
