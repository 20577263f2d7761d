"""A method from the settings that the command line wrote into its checkpoint, where the encoder is no CLIP.

On the command line ``encoder`` has the sizes of a CLIP, and jsonargparse, by which Lightning builds a method anew,
takes no others. Here the encoder's settings go round it. Checkpoints name this function, and Lightning calls it, since
it stands in the list of those that may be called (private to Lightning). It is as strict as Lightning's own: a method
that is not of the class that the program asks for is refused.
"""

from __future__ import annotations

from typing import Any, TypeVar

from jsonargparse import ArgumentParser
from lightning import LightningModule
from lightning.pytorch.core import saving

from lightning_modules.networks.contract import config_of

Built = TypeVar("Built", bound=LightningModule)
NAME = f"{__name__}.instantiate"
getattr(saving, "_ALLOWED_INSTANTIATORS", set()).add(NAME)  # older versions have no such list


def instantiate(class_type: type[Built], config: dict[str, Any]) -> Built:
    """A method of ``class_type``, or of the subclass that ``config`` names; ``config["encoder"]`` is plain settings."""
    encoder = config_of(config["encoder"])
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(class_type, "module", fail_untyped=False, skip={"encoder"})
    parser.add_instantiator(lambda kind, **arguments: kind(**arguments, encoder=encoder), class_type)
    settings = {name: value for name, value in config.items() if name not in ("_class_path", "encoder")}
    path = config.get("_class_path", f"{class_type.__module__}.{class_type.__qualname__}")
    parsed = parser.parse_object({"module": {"class_path": path, "init_args": settings}})
    return parser.instantiate_classes(parsed)["module"]
