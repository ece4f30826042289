import sys, jax, numpy as np, gin
from slm_jax.resources import gin_folder
gin.config._LOCATION_PREFIXES[:]=[str(gin_folder())+"/",""]
gin.parse_config_files_and_bindings(["experiments/scenes_ctc.gin"],["MODEL_DIR='unused'"])
from slm_jax.training.run import Training
from slm_jax.training import restore
from slm_jax.evaluation import CTCEvaluation
t=gin.get_configurable(Training)()
enc=t.objective.ctc.speech_encoder
s=restore.read_initial(sys.argv[1]); p=s.parameters if hasattr(s,'parameters') else s.params
params={"speech_encoder":p["speech_encoder"]}
L={'speech':104000,'inputs':24,'targets':24}
for task,split in (x.split('@') for x in sys.argv[2:]):
    ev=CTCEvaluation(task=task,split=split,task_feature_lengths=L,batch_size=50,limit=200) if 'limit' in CTCEvaluation.__dataclass_fields__ else CTCEvaluation(task=task,split=split,task_feature_lengths=L,batch_size=50)
    r=ev.run(ev.predict(enc),params); print(task,split,len(r.predictions),r.scores,flush=True)
