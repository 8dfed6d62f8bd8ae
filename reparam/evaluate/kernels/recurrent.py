"""RNN, GRU and LSTM with all that the standard allows; the reference ignores lengths, clipping and other activations.

Shapes: x [time, batch, input], W [directions, gates · hidden, input], R [directions, gates · hidden, hidden],
B [directions, 2 · gates · hidden], states [directions, batch, hidden]; with ``layout`` 1 the batch comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attn_export.types import Array

_Function = Callable[[Array], Array]
#: What is made of the result of an activation and its argument.
Change = Callable[[Array, Array], Array]
#: From what the input brings at one time, the states and the weights of a direction, to the next states.
_Step = Callable[["_Direction", Array, Sequence[Array]], Sequence[Array]]


@dataclass(frozen=True)
class _Direction:
    """Weights and activations of one direction; the recurrent bias is apart, for GRU needs it so."""

    weight: Array
    recurrent: Array
    bias: Array
    bias_recurrent: Array
    peephole: Array
    functions: Sequence[_Function]
    attributes: Mapping[str, Any]

    def gates(self, x: Array, h: Array) -> list[Array]:
        """Compute what goes into each gate from the input and from the state, [batch, hidden] each."""
        hidden = self.recurrent.shape[1]
        whole = x @ self.weight.T + h @ self.recurrent.T + self.bias + self.bias_recurrent
        return np.split(whole, whole.shape[1] // hidden, axis=1)

    def clip(self, x: Array) -> Array:
        """Keep what goes into an activation within the threshold, if there is one."""
        most = self.attributes.get("clip")
        return x if most is None else np.clip(x, -most, most)


def _as_it_is(result: Array, _: Array) -> Array:
    return result


def rnn(
    attributes: Mapping[str, Any], arguments: Sequence[Array | None], change: Change = _as_it_is
) -> tuple[Array, ...]:
    """RNN: Y [time, directions, batch, hidden] and the last state; ``change`` is made to every curved activation."""
    x, w, r, b, lengths, start = (*arguments, *[None] * 6)[:6]
    return _run(attributes, change, _rnn_step, ("Tanh",), x, w, r, b, lengths, [start], None)


def gru(
    attributes: Mapping[str, Any], arguments: Sequence[Array | None], change: Change = _as_it_is
) -> tuple[Array, ...]:
    """GRU: Y and the last state."""
    x, w, r, b, lengths, start = (*arguments, *[None] * 6)[:6]
    return _run(attributes, change, _gru_step, ("Sigmoid", "Tanh"), x, w, r, b, lengths, [start], None)


def lstm(
    attributes: Mapping[str, Any], arguments: Sequence[Array | None], change: Change = _as_it_is
) -> tuple[Array, ...]:
    """LSTM: Y, the last state and the last cell."""
    x, w, r, b, lengths, start, cell, peep = (*arguments, *[None] * 8)[:8]
    return _run(attributes, change, _lstm_step, ("Sigmoid", "Tanh", "Tanh"), x, w, r, b, lengths, [start, cell], peep)


LAYERS: Mapping[str, Callable[..., tuple[Array, ...]]] = {"RNN": rnn, "GRU": gru, "LSTM": lstm}


def _rnn_step(one: _Direction, x: Array, states: Sequence[Array]) -> Sequence[Array]:
    (gate,) = one.gates(x, states[0])
    return [one.functions[0](one.clip(gate))]


def _gru_step(one: _Direction, x: Array, states: Sequence[Array]) -> Sequence[Array]:
    (h,) = states
    f, g = one.functions
    update, reset, _ = one.gates(x, h)
    z, r = f(one.clip(update)), f(one.clip(reset))
    last = slice(-h.shape[1], None)
    mine = x @ one.weight[last].T + one.bias[last]
    if one.attributes.get("linear_before_reset"):
        theirs = r * (h @ one.recurrent[last].T + one.bias_recurrent[last])
    else:
        theirs = (r * h) @ one.recurrent[last].T + one.bias_recurrent[last]
    return [np.asarray((1 - z) * g(one.clip(mine + theirs)) + z * h)]


def _lstm_step(one: _Direction, x: Array, states: Sequence[Array]) -> Sequence[Array]:
    h, c = states
    f, g, out = one.functions
    gate_i, gate_o, gate_f, gate_c = one.gates(x, h)
    peep_i, peep_o, peep_f = np.split(one.peephole, 3)
    keep = f(one.clip(gate_f + peep_f * c))
    take = 1 - keep if one.attributes.get("input_forget") else f(one.clip(gate_i + peep_i * c))
    cell = keep * c + take * g(one.clip(gate_c))
    show = f(one.clip(gate_o + peep_o * cell))
    return [np.asarray(show * out(cell)), np.asarray(cell)]


def _run(
    attributes: Mapping[str, Any],
    change: Change,
    step: _Step,
    usual: Sequence[str],
    x: Array | None,
    w: Array | None,
    r: Array | None,
    b: Array | None,
    lengths: Array | None,
    starts: Sequence[Array | None],
    peep: Array | None,
) -> tuple[Array, ...]:
    assert x is not None
    assert w is not None
    assert r is not None
    first = bool(attributes.get("layout", 0))
    x = x.swapaxes(0, 1) if first else x
    time, batch = x.shape[:2]
    count, gated, hidden = r.shape
    b, peep = _or_zeros(b, (count, 2 * gated), x), _or_zeros(peep, (count, 3 * hidden), x)
    given = [s if s is None or not first else s.swapaxes(0, 1) for s in starts]
    begun = [_or_zeros(s, (count, batch, hidden), x) for s in given]
    ends = np.full(batch, time) if lengths is None else np.asarray(lengths)
    functions = list(_activations(attributes, change, usual, count))
    ways = {b"forward": [1], b"reverse": [-1], b"bidirectional": [1, -1]}[attributes.get("direction", b"forward")]
    y = np.zeros((time, count, batch, hidden), x.dtype)
    finals = [np.zeros((count, batch, hidden), x.dtype) for _ in begun]
    for place, way in enumerate(ways):
        one = _Direction(
            w[place], r[place], b[place, :gated], b[place, gated:], peep[place], functions[place], attributes
        )
        states = [np.array(state[place]) for state in begun]
        order = range(time) if way == 1 else range(time - 1, -1, -1)
        for t, live, output in _steps(step, one, x, states, ends, order):
            y[t, place, live] = output
        for final, state in zip(finals, states, strict=True):
            final[place] = state
    if first:
        return y.transpose(2, 0, 1, 3), *(final.swapaxes(0, 1) for final in finals)
    return y, *finals


def _or_zeros(array: Array | None, shape: tuple[int, ...], like: Array) -> Array:
    return np.zeros(shape, like.dtype) if array is None else array


def _steps(
    step: _Step, one: _Direction, x: Array, states: Sequence[Array], ends: Array, order: Iterable[int]
) -> Iterator[tuple[int, Array, Array]]:
    """Run one direction and change its states; yields for each time the rows that are not over, and their outputs."""
    for t in order:
        live = t < ends  # a row that is over keeps its state; read backwards, it begins at its own end
        if not live.any():
            continue
        for state, new in zip(states, step(one, x[t], states), strict=True):
            state[live] = new[live]
        yield t, live, states[0][live]


#: With the numbers that the standard gives where the model gives none.
_NUMBERS: Mapping[str, tuple[float, ...]] = {
    "affine": (1.0, 0.0),
    "elu": (1.0,),
    "hardsigmoid": (0.2, 0.5),
    "leakyrelu": (0.01,),
    "scaledtanh": (1.0, 1.0),
    "thresholdedrelu": (1.0,),
}
_FUNCTIONS: Mapping[str, Callable[..., Array]] = {
    "affine": lambda x, a, b: a * x + b,
    "elu": lambda x, a: np.where(x < 0, a * np.expm1(x), x),
    "hardsigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "leakyrelu": lambda x, a: np.where(x < 0, a * x, x),
    "relu": lambda x: np.maximum(x, 0),
    "scaledtanh": lambda x, a, b: a * np.tanh(b * x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.logaddexp(0, x),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "tanh": np.tanh,
    "thresholdedrelu": lambda x, a: np.where(x > a, x, 0),
}


#: Those that are no straight lines.
_CURVED = frozenset({"elu", "scaledtanh", "sigmoid", "softplus", "softsign", "tanh"})


def _function(name: str, numbers: Sequence[float], change: Change) -> _Function:
    return lambda x: change(np.asarray(_FUNCTIONS[name](x, *numbers)), x)


def _activations(
    attributes: Mapping[str, Any], change: Change, usual: Sequence[str], directions: int
) -> Iterator[list[_Function]]:
    """For each direction its activations; numbers are given in the order of those that take some."""
    names = [name.decode().lower() for name in attributes.get("activations", [])]
    names = names or [name.lower() for name in usual] * directions
    given = [list(attributes.get(f"activation_{which}", [])) for which in ("alpha", "beta")]
    made: list[_Function] = []
    for name in names:
        usually = _NUMBERS.get(name, ())
        numbers = [given[place].pop(0) if given[place] else number for place, number in enumerate(usually)]
        made.append(_function(name, numbers, change if name in _CURVED else _as_it_is))
    for place in range(directions):
        yield made[place * len(usual) : (place + 1) * len(usual)]
