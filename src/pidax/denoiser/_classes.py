"""Which class labels a model knows, for those who check before they compile."""

from typing import Any

_UNKNOWN = object()


def classes_of(model: Any) -> Any:
    """Its classes: a number, None, or unknown for a model that does not say.

    What is wrapped around a denoiser (`Guided`, say) has those of that denoiser.
    """
    while model is not None:
        classes = getattr(model, "classes", _UNKNOWN)
        if classes is not _UNKNOWN:
            return classes
        model = getattr(model, "denoiser", None)
    return _UNKNOWN


def is_known(classes: Any) -> bool:
    """Whether `classes_of` found a model that says."""
    return classes is not _UNKNOWN
