"""Optimizers that step the head's weights block by block, inside backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, nn

from .. import _validation as check
from .sums import column_sums, product

__all__ = ["FusedAdam", "FusedSGD", "FusedUpdate"]

ROUNDINGS: Final = ("stochastic", "kahan", "nearest")
_CPU_STRIP: Final = 1 << 19  # weights that a CPU updates together
_STATE_DTYPES: Final = (torch.float32, torch.bfloat16)


class FusedUpdate(torch.optim.Optimizer):
    """The base of :class:`FusedSGD` and :class:`FusedAdam`: an optimizer that backward itself steps.

    ``LinearLoss(..., fused_update=...)`` hands over its parameters. Each backward through the head is one step of
    weight and bias, with the gradient scaled by ``grad_output``; ``step()`` does nothing, so the update can be kept
    in a list of optimizers. Schedulers and ``state_dict`` work as for any optimizer.

    With a ``grad_scaler``, backward divides ``grad_output`` by the scale before it steps, and the input's gradient
    is multiplied by the scale again. A step is skipped if the loss, input or ``grad_output`` is not finite; this
    check waits for the GPU once, as ``GradScaler.step`` does. Copies have no ``grad_scaler``.
    """

    _step_supports_amp_scaling = True  # GradScaler.step then calls step() without looking for gradients

    _moments: tuple[str, ...] = ()  # names of the state that is as large as a parameter
    _first_label: int = 0  # number of the parameters' first label among those of all ranks
    _numbers: int = 3  # numbers that a step holds for each weight at its peak

    def __init__(self, rounding: Any, seed: Any, grad_scaler: Any, defaults: dict[str, Any]) -> None:
        check.check_choice("rounding", rounding, ROUNDINGS)
        if seed is None:
            seed = int(torch.randint(2**31 - 1, ()))
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed: expected an int >= 0 or None, got {seed!r}")
        super().__init__([{"params": []}], {**defaults, "rounding": rounding, "seed": seed})
        self.grad_scaler = grad_scaler

    # ---- as an optimizer ----

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse any parameters but those of the head, which is the only one that steps them."""
        if self.param_groups:
            raise ValueError("param_group: expected none, because a fused update steps the parameters of its head only")
        super().add_param_group(param_group)

    @property
    def grad_scaler(self) -> torch.amp.GradScaler | None:
        """The scaler that scales the loss, or None. It may be set later, if a framework creates it."""
        return self._grad_scaler

    @grad_scaler.setter
    def grad_scaler(self, scaler: torch.amp.GradScaler | None) -> None:
        if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
            raise TypeError(f"grad_scaler: expected a torch.amp.GradScaler or None, got {type(scaler).__name__}")
        self._grad_scaler = scaler

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state of :meth:`__getstate__`."""
        super().__setstate__(state)
        self.__dict__.setdefault("_grad_scaler", None)  # load_state_dict calls this too, and must keep the scaler

    def __getstate__(self) -> dict[str, Any]:
        """Return the state that copies keep, which has no ``grad_scaler``."""
        return {**super().__getstate__(), "_first_label": self._first_label}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do nothing, because backward has stepped. Call ``closure``, if given, and return its result.

        Raises:
            RuntimeError: a ``GradScaler`` calls it, and ``grad_scaler`` is None.
        """
        if hasattr(self, "found_inf") and self.grad_scaler is None:  # GradScaler.step sets it
            raise RuntimeError(
                "fused_update: backward has updated the weights with gradients that a GradScaler scaled. Pass that "
                "scaler, FusedSGD(grad_scaler=...) or fused_update.grad_scaler = ..., before the first backward."
            )
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state as any optimizer does; moments keep their dtype. Options that it lacks stay as they are."""
        own = self.param_groups[0]
        for name in ("amsgrad", "maximize"):  # options of torch's optimizers
            if any(group.get(name) for group in state_dict["param_groups"]):
                raise ValueError(f"{name}: expected False, the only value that fused updates support, got True")
        groups = [
            {**{name: own[name] for name in own if name not in group and name != "params"}, **group}
            for group in state_dict["param_groups"]
        ]
        state_dict = {**state_dict, "param_groups": groups}
        super().load_state_dict(state_dict)
        # An optimizer converts its state to the parameters' dtype, so moments are read from the dictionary itself.
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, parameter in zip(numbers, self.param_groups[0]["params"], strict=True):
            saved = state_dict["state"].get(number, {})
            if "step" in saved:
                self.state[parameter]["step"] = int(saved["step"])  # torch's optimizers count in a tensor
            for name in self._moments:
                if name in saved:
                    self.state[parameter][name] = saved[name].to(parameter.device, self._state_dtype(parameter))

    # ---- for the head ----

    def bind(self, parameters: list[nn.Parameter], first_label: int = 0) -> None:
        """Receive the head's parameters, once; ``first_label`` is the number of their first label."""
        self._first_label = first_label
        group = self.param_groups[0]
        if group["params"]:
            raise ValueError("fused_update: expected a separate update for each head, got one that has a head already")
        group["params"] = parameters

    def follow(self, parameters: list[nn.Parameter]) -> None:
        """Take the parameters that replace the head's, as by ``to_empty`` and ``load_state_dict(assign=True)``."""
        own = self.param_groups[0]["params"]
        for place, (former, now) in enumerate(zip(own, parameters, strict=True)):
            if now is not former:
                own[place] = now
                if former in self.state:
                    self.state[now] = self.state.pop(former)

    def loss_scale(self, device: torch.device) -> Tensor | None:
        """Return the loss scale, a 0-d tensor; None without an enabled scaler."""
        scaler = self.grad_scaler
        if scaler is None or not scaler.is_enabled():
            return None
        return scaler.scale(torch.ones((), device=device))

    def check_parameter(self, parameter: Tensor) -> None:
        """Check, before anything runs, that a step can update this parameter."""
        if not any(parameter is each for each in self.param_groups[0]["params"]):
            raise ValueError("fused_update: expected the head's own parameters; was one of them replaced?")

    def scratch(self, weight: Tensor) -> int:
        """Return the bytes that a step takes for each weight of a block, its gradient included."""
        return weight.dtype.itemsize + (0 if _in_strips(weight) else self._strip(weight))

    def strip(self, weight: Tensor) -> int:
        """Return the further bytes of a step on a CPU, which updates one strip of weights at a time."""
        together = min(_CPU_STRIP, weight.numel())
        return together * self._strip(weight) if _in_strips(weight) else 0

    def _strip(self, weight: Tensor) -> int:
        return self._numbers * max(4, weight.dtype.itemsize)

    def begin(self, weight: bool = True, bias: bool = True) -> Stepping:
        """Start a step of weight and bias, or of one of them, and return the sink that performs it block by block."""
        for parameter, steps in zip(self.param_groups[0]["params"], (weight, bias), strict=False):
            if steps:
                state = self.state[parameter]
                state["step"] = state.get("step", 0) + 1
        self._opt_called = True  # schedulers check this attribute
        return Stepping(self, weight, bias)

    def step_block(self, parameter: Tensor, labels: slice, gradient: Tensor) -> None:
        """Step these rows of a parameter; ``gradient`` may be overwritten."""
        group, state = self.param_groups[0], self.state[parameter]
        noise = self._noise(parameter, labels, group["seed"], state["step"])
        kept = [self.state_tensor(name, parameter) for name in self.state_names(parameter)]
        size = _rows_at_a_time(parameter)
        for start in range(labels.start, labels.stop, size):
            rows = slice(start, min(start + size, labels.stop))
            strip = gradient[start - labels.start : rows.stop - labels.start]
            self._step_rows(parameter.detach()[rows], strip, [each[rows] for each in kept], state["step"], noise)

    def _step_rows(
        self, target: Tensor, gradient: Tensor, kept: list[Tensor], step: int, noise: torch.Generator
    ) -> None:
        group = self.param_groups[0]
        wide = torch.float64 if target.dtype == torch.float64 else torch.float32
        compensation = kept.pop() if self._compensates(group, target) else None
        delta = self._delta(target, gradient.to(wide), kept, group, step, noise)
        if target.dtype == wide:
            target.add_(delta)
        elif compensation is None:
            store(target, delta.add_(target), noise if group["rounding"] == "stochastic" else None)
        else:
            _add_compensated(target, delta, compensation)

    @staticmethod
    def _compensates(group: dict[str, Any], parameter: Tensor) -> bool:
        return group["rounding"] == "kahan" and parameter.dtype == torch.bfloat16

    def state_names(self, parameter: Tensor) -> tuple[str, ...]:
        """Return the names of the state tensors that are as large as the parameter."""
        group = self.param_groups[0]
        compensation = ("compensation",) if self._compensates(group, parameter) else ()
        return self._moments_of(group) + compensation

    def _delta(
        self,
        target: Tensor,
        gradient: Tensor,
        moments: list[Tensor],
        group: dict[str, Any],
        step: int,
        noise: torch.Generator,
    ) -> Tensor:
        """Return the change of the weights, possibly in the gradient's memory, and store the new moments."""
        raise NotImplementedError

    def _moments_of(self, group: dict[str, Any]) -> tuple[str, ...]:
        return self._moments

    def _state_dtype(self, parameter: Tensor) -> torch.dtype:
        return parameter.dtype

    def state_tensor(self, name: str, parameter: Tensor) -> Tensor:
        """Return a state tensor; zeros before the first step."""
        state = self.state[parameter]
        dtype = parameter.dtype if name == "compensation" else self._state_dtype(parameter)
        if name not in state:
            state[name] = torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
        elif state[name].dtype != dtype or state[name].device != parameter.device:  # the head was converted or moved
            state[name] = state[name].to(parameter.device, dtype)
        kept: Tensor = state[name]
        return kept

    def _noise(self, parameter: Tensor, labels: slice, seed: int, step: int) -> torch.Generator:
        """Return the block's random generator, which depends only on the seed, the step and the plan."""
        place = next(i for i, each in enumerate(self.param_groups[0]["params"]) if each is parameter)
        mixed = seed
        for number in (step, place, self._first_label + labels.start):
            # Two rounds of an integer hash; any large odd constants would do.
            mixed = ((mixed ^ number) * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03) & (2**64 - 1)
            mixed ^= mixed >> 29
        # The CPU's generator takes 32 bits of a seed.
        return torch.Generator(parameter.device).manual_seed((mixed ^ (mixed >> 32)) & (2**32 - 1))


class Stepping:
    """The sink that updates weights instead of accumulating gradients; frozen parameters stay as they are."""

    def __init__(self, update: FusedUpdate, steps_weight: bool, steps_bias: bool) -> None:
        self._update = update
        weight, *bias = update.param_groups[0]["params"]
        self._weight = weight if steps_weight else None
        self._bias = bias[0] if bias and steps_bias else None

    def weight(self, labels: slice, gradient: Tensor, inputs: Tensor) -> None:
        """Step the block's weights."""
        if self._weight is not None:
            self._update.step_block(self._weight, labels, product(gradient.t(), inputs))

    def bias(self, labels: slice, gradient: Tensor) -> None:
        """Step the block's biases."""
        if self._bias is not None:
            self._update.step_block(self._bias, labels, column_sums(gradient))


class NoStep:
    """The sink of a step that is skipped."""

    def weight(self, labels: slice, gradient: Tensor, inputs: Tensor) -> None:
        """Leave the block's weights unchanged."""

    def bias(self, labels: slice, gradient: Tensor) -> None:
        """Leave the block's biases unchanged."""


def _in_strips(parameter: Tensor) -> bool:
    return parameter.device.type in ("cpu", "meta")  # "meta" is planned as a CPU


def _rows_at_a_time(parameter: Tensor) -> int:
    """Return the rows of a strip; on a CPU a strip stays in the cache for all operations of a step."""
    rows = parameter.shape[0]
    if rows == 0 or not _in_strips(parameter):
        return max(rows, 1)
    return max(1, _CPU_STRIP // max(1, parameter.numel() // rows))


def store(target: Tensor, values: Tensor, noise: torch.Generator | None) -> None:
    """Round ``values`` into ``target``, stochastically if ``noise`` is given; ``values`` are overwritten."""
    if noise is not None and target.dtype == torch.bfloat16:
        _round_stochastically(values, noise)
    target.copy_(values)


def _round_stochastically(values: Tensor, noise: torch.Generator) -> None:
    """Round float32 to bfloat16 values in place, up with a probability of the distance to the value below."""
    count = values.numel()
    # Every NaN gets the same bits, because the sum below would carry other patterns over to 0.
    values.masked_fill_(values.isnan(), torch.nan)
    # Each 64-bit number gives four random numbers of 16 bits.
    random = torch.empty(-(-count // 4), dtype=torch.int64, device=values.device)
    random = random.random_(-(2**63), None, generator=noise).view(torch.int16)[:count].view(values.shape)
    bits = values.view(torch.int32)
    # A number in [0, 2^16) is added to the low 16 bits, which are then cut off. Infinity is unchanged.
    bits.add_(random).add_(1 << 15).bitwise_and_(-(1 << 16))


def _add_compensated(target: Tensor, delta: Tensor, compensation: Tensor) -> None:
    """Do ``target += delta``, and keep the rounding error for the next time. Kahan, 1965."""
    total = delta.add_(compensation).add_(target)
    target.copy_(total)
    compensation.copy_(total.sub_(target))


class FusedSGD(FusedUpdate):
    r"""SGD on the head's weights inside backward, with the arguments of ``torch.optim.SGD``.

    .. math:: m \leftarrow \mu m + (1 - \tau) g, \qquad w \leftarrow w - \eta m

    Args:
        lr: the learning rate, > 0 or a 0-d tensor; schedulers change it. Default 1e-3.
        momentum, dampening, weight_decay, nesterov: as in ``torch.optim.SGD``. The momentum buffer has the
            weights' dtype.
        rounding: how bfloat16 weights are stored: ``"stochastic"`` (default), ``"kahan"`` (with a
            compensation as large as the weights) or ``"nearest"``, which loses steps below 1/256 of a weight.
            float32 and float64 weights are always rounded to nearest.
        seed: the seed of stochastic rounding, an int; default: drawn from torch's default generator.
        grad_scaler: the ``torch.amp.GradScaler`` that scales the loss; see :class:`FusedUpdate`. An input computed
            in float16 needs one (``GradScaler(enabled=False)`` if nothing is scaled). Default None.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument is out of range.

    Source:
        Stochastic rounding and Kahan summation for bfloat16 weights: Zamirai, Zhang, Aberger, De Sa,
        "Revisiting BFloat16 Training", 2020, arXiv:2010.06192.

    Example:
        >>> head = LinearLoss(4, 3, BCEWithLogitsLoss(), fused_update=FusedSGD(lr=0.1))
        >>> loss = head(torch.randn(2, 4), torch.tensor([[1, 0, 0], [0, 1, 1]]))
        >>> loss.backward()  # this updates the weights
        >>> head.weight.grad is None
        True
    """

    _moments = ("momentum_buffer",)

    def __init__(
        self,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        rounding: str = "stochastic",
        seed: int | None = None,
        grad_scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        defaults = {
            "lr": _check_lr(lr),
            "momentum": check.check_number("momentum", momentum, 0.0),
            "dampening": check.check_number("dampening", dampening),
            "weight_decay": check.check_number("weight_decay", weight_decay, 0.0),
            "nesterov": check.check_bool("nesterov", nesterov),
        }
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("nesterov: expected a momentum > 0 and a dampening of 0 with it")
        super().__init__(rounding, seed, grad_scaler, defaults)

    def _moments_of(self, group: dict[str, Any]) -> tuple[str, ...]:
        return self._moments if group["momentum"] else ()

    def _delta(
        self,
        target: Tensor,
        gradient: Tensor,
        moments: list[Tensor],
        group: dict[str, Any],
        step: int,
        noise: torch.Generator,
    ) -> Tensor:
        if group["weight_decay"]:
            gradient.add_(target, alpha=group["weight_decay"])
        if moments:
            gradient = self._with_momentum(gradient, moments[0], group, step, noise)
        return gradient.mul_(-group["lr"])

    @staticmethod
    def _with_momentum(
        gradient: Tensor, buffer: Tensor, group: dict[str, Any], step: int, noise: torch.Generator
    ) -> Tensor:
        momentum, kept = group["momentum"], 1.0 if step == 1 else 1 - group["dampening"]
        if buffer.dtype == gradient.dtype:
            buffer.mul_(momentum).add_(gradient, alpha=kept)
            return gradient.add_(buffer, alpha=momentum) if group["nesterov"] else gradient.copy_(buffer)
        if group["nesterov"]:
            moved = torch.add(gradient, buffer, alpha=momentum)
            gradient.add_(moved, alpha=momentum)
        else:
            gradient.mul_(kept).add_(buffer, alpha=momentum)
            moved = gradient.clone()
        store(buffer, moved, noise)
        return gradient


class FusedAdam(FusedUpdate):
    r"""Adam on the head's weights inside backward, with the arguments of ``torch.optim.Adam``.

    Args:
        lr: the learning rate, > 0 or a 0-d tensor; schedulers change it. Default 1e-3.
        betas: the decay rates of the two moments, each in [0, 1). Default ``(0.9, 0.999)``.
        eps: a number >= 0, added to the square root of the second moment. Default 1e-8.
        weight_decay: the factor of the weights that is added to the gradient, or, with ``decoupled_weight_decay``,
            subtracted from the weights as in ``torch.optim.AdamW``. Defaults 0.0 and False.
        state_dtype: the dtype of both moments: ``torch.bfloat16`` (default) or ``torch.float32``. bfloat16 moments
            are always rounded stochastically: rounded to nearest, a second moment with a beta of 0.999 would not
            move.
        rounding, seed, grad_scaler: as in :class:`FusedSGD`.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument is out of range.

    Source:
        Kingma, Ba, "Adam: A Method for Stochastic Optimization", 2014, arXiv:1412.6980; Loshchilov, Hutter,
        "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101.

    Example:
        >>> head = LinearLoss(4, 3, ZLPRLoss(), fused_update=FusedAdam(lr=0.01))
        >>> scheduler = torch.optim.lr_scheduler.ExponentialLR(head.fused_update, gamma=0.9)
        >>> head(torch.randn(2, 4), torch.tensor([[1, 0, 0], [0, 1, 1]])).backward()
        >>> scheduler.step()
        >>> head.fused_update.param_groups[0]["lr"]
        0.009...
    """

    _moments = ("exp_avg", "exp_avg_sq")
    _numbers = 5

    def __init__(
        self,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        state_dtype: torch.dtype = torch.bfloat16,
        rounding: str = "stochastic",
        seed: int | None = None,
        grad_scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        if not (isinstance(betas, (tuple, list)) and len(betas) == 2):
            raise TypeError(f"betas: expected two numbers, got {betas!r}")
        if state_dtype not in _STATE_DTYPES:
            raise ValueError(f"state_dtype: expected torch.float32 or torch.bfloat16, got {state_dtype!r}")
        defaults = {
            "lr": _check_lr(lr),
            "betas": tuple(check.check_number("betas", beta, 0.0, 1.0, open_high=True) for beta in betas),
            "eps": check.check_number("eps", eps, 0.0),
            "weight_decay": check.check_number("weight_decay", weight_decay, 0.0),
            "decoupled_weight_decay": check.check_bool("decoupled_weight_decay", decoupled_weight_decay),
            "state_dtype": state_dtype,
        }
        super().__init__(rounding, seed, grad_scaler, defaults)

    def _state_dtype(self, parameter: Tensor) -> torch.dtype:
        state_dtype: torch.dtype = self.param_groups[0]["state_dtype"]
        return parameter.dtype if parameter.dtype == torch.float64 else state_dtype

    def _delta(
        self,
        target: Tensor,
        gradient: Tensor,
        moments: list[Tensor],
        group: dict[str, Any],
        step: int,
        noise: torch.Generator,
    ) -> Tensor:
        (one, two), lr, decay = group["betas"], group["lr"], group["weight_decay"]
        if decay and not group["decoupled_weight_decay"]:
            gradient.add_(target, alpha=decay)
        second = moments[1].to(gradient.dtype, copy=True).mul_(two).addcmul_(gradient, gradient, value=1 - two)
        first = gradient.mul_(1 - one).add_(moments[0], alpha=one)
        denominator = second.sqrt().div_((1 - two**step) ** 0.5).add_(group["eps"])
        store(moments[1], second, noise)
        del second
        delta = torch.div(first, denominator, out=denominator).mul_(-lr / (1 - one**step))
        store(moments[0], first, noise)
        if decay and group["decoupled_weight_decay"]:
            delta.sub_(target * (lr * decay))
        return delta


def _check_lr(lr: Any) -> float | Tensor:
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"lr: expected a number or a tensor of one, got shape {tuple(lr.shape)}")
        if check.readable(lr):
            check.check_number("lr", lr.item(), 0.0)
        return lr
    return check.check_number("lr", lr, 0.0)
