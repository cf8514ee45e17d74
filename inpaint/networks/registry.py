"""The architectures a network of the method may have, by its role; training, weights files and the pipeline ask here.

An architecture is added by one line above its class, in a module that is imported before it is asked for:

    @register("feature2image", "my-decoder", MyConfig)
    class MyDecoder(nn.Module):
        def __init__(self, config: MyConfig): ...
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from torch import nn

from inpaint.errors import InpaintError

Role = Literal["image2feature", "feature2image"]
ROLES: tuple[Role, ...] = get_args(Role)
DEFAULTS: dict[Role, str] = {"image2feature": "dilated", "feature2image": "u-net"}  # where no architecture is named

Network = TypeVar("Network", bound=nn.Module)


class Architecture(NamedTuple):
    """A class of networks, made by ``network(config)``, and the frozen dataclass of its sizes."""

    network: type[nn.Module]
    config: type


_ARCHITECTURES: dict[Role, dict[str, Architecture]] = {role: {} for role in ROLES}


def register(role: Role, name: str, config: type) -> Callable[[type[Network]], type[Network]]:
    """Class decorator: networks of that role may have this architecture from now on.

    The class is called with an instance of ``config``, which has a default for every field and holds what JSON can
    (lists come back as tuples), and keeps it as ``config``. What it does in evaluation mode follows from its role:

    * "image2feature": (image (B, 3, H, W) in [0, 1], hole (B, H, W) bool, True = hole) -> the completed image, of the
      same shape; known pixels stay bit for bit, and what the hole held has no influence.
    * "feature2image": relu3_1 (B, 256, h, w) -> its picture (B, 3, 4h, 4w) in [0, 1]. ``stride``, an int, is the side
      in cells of its coarsest layer's cells: pictures in tiles are cut at multiples of it.

    Raises:
        InpaintError: another role, or a name that another class has.
    """
    names = _of_role(role)

    def add(network: type[Network]) -> type[Network]:
        known = names.get(name)
        if known is not None and _path(known.network) != _path(network):  # a class may be defined anew, in a notebook
            raise InpaintError(
                f"{role} {name!r}: expected a name of its own, {_path(known.network)} has it; choose another one"
            )
        names[name] = Architecture(network, config)
        return network

    return add


def architecture(role: Role, name: str = "") -> Architecture:
    """The architecture of that name, or the role's default. InpaintError if there is none."""
    names = _of_role(role)
    found = names.get(name or DEFAULTS[role])
    if found is None:
        raise InpaintError(
            f"{role}: expected an architecture out of {', '.join(names)}, got {name!r}; "
            "choose one of these, or import the module that registers it"
        )
    return found


def build(role: Role, name: str = "", sizes: Mapping[str, Any] | None = None) -> nn.Module:
    """A network with its initial weights.

    Args:
        role: what it is for.
        name: of its architecture; the role's default by default.
        sizes: fields of the architecture's config that differ from their defaults; lists become tuples.

    Raises:
        InpaintError: an unknown architecture or field.
    """
    network, config = architecture(role, name)
    sizes = {key: tuple(value) if isinstance(value, list) else value for key, value in (sizes or {}).items()}
    fields = [field.name for field in dataclasses.fields(config)]
    if unknown := sorted(set(sizes) - set(fields)):
        raise InpaintError(
            f"{role} {name or DEFAULTS[role]!r}: expected sizes out of {', '.join(fields)}, got {unknown[0]!r}"
        )
    return network(config(**sizes))


def name_of(role: Role, network: nn.Module) -> str:
    """The name of a network's architecture. InpaintError if its class is not registered for the role."""
    for name, (kind, _) in _of_role(role).items():
        if type(network) is kind:
            return name
    raise InpaintError(
        f"{role}: expected a network of a registered class, got {_path(type(network))}; register it for this role"
    )


def _of_role(role: Role) -> dict[str, Architecture]:
    if role not in ROLES:
        raise InpaintError(f"expected a role out of {', '.join(ROLES)}, got {role!r}; choose one of these")
    return _ARCHITECTURES[role]


def _path(network: type) -> str:
    return f"{network.__module__}.{network.__qualname__}"
