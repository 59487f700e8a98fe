"""The sampling algebra: from one step to an inference and a training run (Eqs. 4 to 7 of the paper)."""

from __future__ import annotations

from typing import Any


def t_inf(t_once: Any, t_first: Any, t_step: Any, steps: Any) -> Any:
    """T_inf = t_once + t_samp,first + (K - 1) t_samp, in s: affine in K for a fixed step."""
    return t_once + t_first + (steps - 1) * t_step


def t_inf_eq6(t_step_one_chain: Any, chains: Any, steps: Any) -> Any:
    """T_inf ≈ T_samp × C × K (Eq. 6), in s: chains one after another, nothing but steps."""
    return t_step_one_chain * chains * steps


def t_train(iterations: Any, t_iteration: Any, t_step: Any, training_steps: Any) -> Any:
    """T_train = N (K_t t_samp + t_iteration), in s, at the training batch.

    t_iteration: forwards on both samples, weight backwards, second-order terms, optimiser, replay buffer.
    """
    return iterations * (training_steps * t_step + t_iteration)


def t_train_eq7(
    iterations: Any, t_positive: Any, t_negative: Any, t_step_one_chain: Any, chains: Any, training_steps: Any
) -> Any:
    """T_train ≈ N (T_bwd,w(x⁺) + T_bwd,w(x⁻) + T_samp × C × K_t) (Eq. 7), in s."""
    return iterations * (t_positive + t_negative + t_step_one_chain * chains * training_steps)
