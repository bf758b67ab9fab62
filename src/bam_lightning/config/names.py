"""The rule for names of tasks, stages and experiments.

These names become keys of ``nn.ModuleDict``, files, columns of tables, keys of W&B and parts of HTTP paths. One rule
that fits all of them is checked when a config is read.
"""

from __future__ import annotations

import re

from bam_lightning.config.exceptions import ConfigError

LONGEST = 100  # characters; file systems allow 255 bytes for a name and what is added to it
PATTERN = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
TAKEN = frozenset({"all", "average", "input_ids", "attention_mask", "token_type_ids", "position_ids"})
# Attributes of torch.nn.ModuleDict (`smart_apply` is added by transformers), which it refuses as keys.
MODULE_ATTRIBUTES = frozenset(
    """
    T_destination add_module apply bfloat16 buffers call_super_init children clear compile cpu cuda double dump_patches
    eval extra_repr float forward get_buffer get_extra_state get_parameter get_submodule half ipu items keys
    load_state_dict modules mtia named_buffers named_children named_modules named_parameters parameters pop
    register_backward_hook register_buffer register_forward_hook register_forward_pre_hook register_full_backward_hook
    register_full_backward_pre_hook register_load_state_dict_post_hook register_load_state_dict_pre_hook
    register_module register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_
    set_extra_state set_submodule share_memory smart_apply state_dict to to_empty train training type update values xpu
    zero_grad
    """.split()
)


def name_error(name: str) -> str | None:
    """Return why a name cannot be used, and another one that can be; None for a good name.

    >>> name_error("my sentiment")
    "is no name: use letters, digits and _, with a letter first, as in 'my_sentiment'"
    """
    if not PATTERN.fullmatch(name):
        near = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")
        near = near if PATTERN.fullmatch(near) and near not in TAKEN | MODULE_ATTRIBUTES else f"name_{near}".strip("_")
        return f"is no name: use letters, digits and _, with a letter first, as in {near[:LONGEST]!r}"
    if len(name) > LONGEST:
        return f"is longer than {LONGEST} characters; use a shorter name"
    if name in TAKEN or name in MODULE_ATTRIBUTES:
        return f"is reserved; use another name, as in {f'my_{name}'!r}"
    return None


def check_name(key: str, name: str) -> None:
    """Raise ``ConfigError``, starting with ``key``, unless ``name`` can name a task, a stage or an experiment."""
    reason = name_error(name)
    if reason is not None:
        raise ConfigError(f"{key}: {name!r} {reason}")
