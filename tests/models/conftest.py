"""What tests of models share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax import trees


def parameter_shapes(model, inputs):
    """Path to shape of every parameter, without computing any."""
    variables = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), *inputs))
    return {path: leaf.shape for path, leaf in trees.flatten(variables["params"]).items()}


@pytest.fixture(scope="session")
def shapes_of():
    return parameter_shapes


@pytest.fixture(scope="session")
def random_variables():
    """Variables of a model with every parameter at random, so that none hides behind an initial zero or one."""

    def make(model, inputs):
        rng = np.random.default_rng(0)
        params = {
            path: jnp.asarray(0.4 * rng.normal(size=shape) + path.endswith("scale"), jnp.float32)
            for path, shape in parameter_shapes(model, inputs).items()
        }
        return {"params": trees.unflatten(params)}

    return make
