import sys, pathlib, jax, numpy as np
from slm_jax import gin_utils
from slm_jax.claims.study import Study
from slm_jax.data import word_errors
from slm_jax.tasks.spoken_scenes import names
from slm_jax.weights.foundation import load_component
from slm_jax.data import metrics
import sacrebleu
from absl import flags; flags.FLAGS(sys.argv[:1])
from slm_jax.training import bundle as _b, restore as _r
_b.check_compatible=lambda *a,**k: None
if hasattr(_r,"check_compatible"): _r.check_compatible=lambda *a,**k: None
gin_utils.set_up_jax()
bundle, *srcs = sys.argv[1:]
model = gin_utils.load_model(bundle)
H=set(names.HELD_OUT_NAMES)
base=dict(model.params)
def wer(a):
    n,o=word_errors.word_errors([p.target for p in a],[p.prediction for p in a],chosen=H)
    import jiwer
    return f"{100*jiwer.wer([p.target for p in a],[p.prediction for p in a]):.2f} [{word_errors.error_rate(n):.1f} {word_errors.error_rate(o):.2f}]"
def bleu(a): return f"{sacrebleu.corpus_bleu([p.prediction for p in a],[[p.target for p in a]]).score:.2f}"
import dataclasses
for s in srcs:
    # s: enc=FILE,lm=FILE
    params=dict(base)
    for part in filter(None,s.split(',')):
        k,f=part.split('=')
        comp={'enc':'speech_encoder','lm':'lm'}[k]
        # mean of several: a+b
        trees=[load_component(x,component=comp,shapes=model.training.shapes[comp]).parameters for x in f.split('+')]
        params[comp]=jax.tree.map(lambda *t: np.mean(np.stack([np.asarray(x,np.float32) for x in t]),0).astype(np.asarray(t[0]).dtype),*trees)
    m=dataclasses.replace(model,params=params)
    st=Study(m,config='claims',batch_size=50,output=pathlib.Path('runs/lmtest'))
    none=st.spoken('transcribe')
    out=[s,'slm',wer(none),'de',bleu(st.spoken('translate_de')),bleu(st.written('translate_de')),'es',bleu(st.spoken('translate_es')),bleu(st.written('translate_es')),
     'b10',wer(st.listed(10,with_name=True)),'w1',wer(st.listed(1,with_name=False)),'w10',wer(st.listed(10,with_name=False)),'w50',wer(st.listed(50,with_name=False)),'w100',wer(st.listed(100,with_name=False))]
    print(*out,flush=True)
