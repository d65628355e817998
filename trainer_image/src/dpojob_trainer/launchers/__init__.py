"""How the driver starts one JAX process per host; every launcher is behind :class:`base.Launcher`."""

from dpojob_api.slice_spec import Launcher as LauncherName
from dpojob_trainer.launchers.base import Gang, Launcher

__all__ = ["Gang", "Launcher", "launcher_of"]


def launcher_of(name: LauncherName) -> Launcher:
    """Return the launcher that ``runtime.launcher`` names; eformer is only imported when it is asked for."""
    if name is LauncherName.EFORMER:
        from dpojob_trainer.launchers.eformer import EformerLauncher

        return EformerLauncher()
    from dpojob_trainer.launchers.slice import SliceLauncher

    return SliceLauncher()
