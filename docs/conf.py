"""Sphinx' settings of the documentation; tools/docs.py lays the pages out and calls it."""

import inspect
import re

from sphinx.util.inspect import stringify_signature

import tf_dwsconv

project = "tf_dwsconv"
version = release = tf_dwsconv.__version__
copyright = "the authors of tf_dwsconv, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

html_theme = "furo"
html_title = f"tf_dwsconv {release}"
html_copy_source = False
html_static_path: "list[str]" = []
pygments_style = "sphinx"
pygments_dark_style = "monokai"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]

# Docstrings are Google's, with names in single backquotes.
default_role = "literal"
napoleon_custom_sections = [("Call arguments", "params_style"), "Input shape", "Output shape"]
napoleon_use_rtype = False
napoleon_use_ivar = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "__init__, __new__"}
python_maximum_signature_line_length = 80
nitpicky = False


def literal_blocks(app, what, name, obj, options, lines):
    """Marks what is indented under running text as code, as our docstrings mean it."""
    found, last = [], ""
    for number, line in enumerate(lines):
        if re.match(r" {4}\S", line) and number and not lines[number - 1].strip() and re.match(r"\S", last):
            found += ["::", ""]
        found.append(line)
        last = line if line.strip() else last
    lines[:] = found


def signatures_of_layers(app, what, name, obj, options, signature, returns):
    """Keras' `__new__` hides what a layer takes."""
    if what != "class" or not (signature or "").startswith("(*args"):
        return None
    of_init = inspect.signature(obj.__init__)
    own = of_init.replace(parameters=list(of_init.parameters.values())[1:], return_annotation=inspect.Signature.empty)
    return stringify_signature(own, unqualified_typehints=True), None


def setup(app):
    app.connect("autodoc-process-signature", signatures_of_layers)
    # Before napoleon, which has taken sections apart otherwise.
    app.connect("autodoc-process-docstring", literal_blocks, priority=400)
