"""HTML that cannot be broken by what is put into it: a tree of elements, where text is only ever text."""

from __future__ import annotations

from xml.etree import ElementTree

__all__ = ["Element", "element", "to_text"]

Element = ElementTree.Element


def element(tag: str, *children: Element | str, **attributes: str | float) -> Element:
    """``class_`` is ``class``, ``data_label`` is ``data-label``. Strangers write texts: control characters, and
    those that turn the direction of writing, are replaced; what means something in HTML is escaped when the tree is
    written."""
    names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    made = Element(tag, {name: _plain(value) for name, value in names.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + _plain(child)
        else:
            made.text = (made.text or "") + _plain(child)
    return made


def to_text(root: Element) -> str:
    """A whole page."""
    return "<!DOCTYPE html>\n" + ElementTree.tostring(root, "unicode", method="html") + "\n"


def _plain(value: str | float) -> str:
    if not isinstance(value, str):
        return f"{value:.5g}"
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in value)
