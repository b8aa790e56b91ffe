"""Ships MathJax with the site: copies it from the package `django-static-mathjax`.

The package holds MathJax 3 as static files and nothing of Django is used. Only the
component that reads TeX and its fonts are copied, to `mathjax/` of the built site.
"""

import shutil
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

_SOURCE = "mathjax/static/mathjax/es5/"
_WANTED = ("tex-chtml.js", "input/tex/extensions/", "output/chtml/fonts/woff-v2/")


def on_post_build(config: Any, **kwargs: Any) -> None:
    """Copy what the pages load."""
    target = Path(config["site_dir"]) / "mathjax"
    for file in distribution("django-static-mathjax").files or ():
        name = file.as_posix().removeprefix(_SOURCE)
        if name.startswith(_WANTED):
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(file.locate()), copy)
    script = target / _WANTED[0]
    if not script.exists():
        raise FileNotFoundError(
            f"expected MathJax's {_WANTED[0]} in django-static-mathjax, found none. "
            'Install the documentation\'s packages: pip install -e ".[docs]".'
        )
