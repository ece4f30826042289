"""Operations of jaxprs, against counts by hand, and recomputation switched by one word."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from slm_jax.aot import flops
from slm_jax.layers.stack import Remat
from slm_jax.models.adapter import TransformerAdapter
from slm_jax.models.slm import SpeechLanguageModel
from slm_jax.models.t5 import T5
from slm_jax.training.objective import TeacherForcing

X, W = jnp.zeros((4, 8)), jnp.zeros((3, 8, 8))
ONE = 2 * 4 * 8 * 8


def layer(x, w):
    return jnp.tanh(x @ w), None


def test_a_product_is_two_operations_an_element():
    assert flops.count(lambda x, w: x @ w, X, W[0]) == ONE
    assert flops.count(lambda x, w: jnp.einsum("bi,lio->lbo", x, w), X, W) == 3 * ONE


def test_what_nobody_asks_for_does_not_count():
    def with_a_spare_product(x, w):
        return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0], jnp.tanh(x @ w[0]).sum() * 0

    assert flops.count(lambda x, w: with_a_spare_product(x, w)[0], X, W) == 3 * ONE


def test_loops_and_branches():
    assert flops.count(lambda x, w: jax.lax.scan(layer, x, w)[0], X, W) == 3 * ONE
    assert (
        flops.count(lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w[0] @ w[1], lambda: x @ w[0]), X, W) == 2 * ONE
    )

    def loop(x, w):
        return jax.lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ w[0], x)

    assert flops.count(loop, X, W, while_trips=5) == 5 * ONE


def test_convolutions():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))

    assert flops.count(convolve, jnp.zeros((2, 10, 3)), jnp.zeros((3, 3, 7))) == 2 * 2 * 5 * 7 * 3 * 3


@pytest.mark.parametrize(("remat", "products"), [(False, 3), (True, 4)])
def test_what_is_computed_again_counts_where_it_is(remat, products):
    """Forward, and backward to the input and to the weights; once more forward with remat."""
    body = jax.checkpoint(layer) if remat else layer
    found = flops.count(jax.grad(lambda w, x: jax.lax.scan(body, x, w)[0].sum()), W, X)
    assert found == pytest.approx(products * 3 * ONE, rel=0.12)


def model(remat):
    heads = dict(num_heads=1, head_dim=4, ff_width=8)
    lm = T5(vocab_size=16, width=8, num_encoder_layers=1, num_decoder_layers=1, remat=remat, **heads)
    return TeacherForcing(SpeechLanguageModel(lm=lm, adapter=TransformerAdapter(features=8, remat=remat, **heads)))


@pytest.mark.parametrize("remat", list(Remat))
def test_remat_of_all_parts_is_one_word(remat):
    assert flops.with_remat(model(Remat.DOTS), remat.value) == model(remat)
    assert flops.with_remat(model(remat), remat.value) == model(remat)


def test_what_has_no_remat_stays():
    @dataclasses.dataclass(frozen=True)
    class Settings:
        size: int

    settings = Settings(3)
    assert flops.with_remat(settings, "full") is settings
