"""TorchScript: read an archive, import it to plain modules, write the edited modules back."""

from dcsurgery.torchscript.importing import import_contents, import_module, is_imported

__all__ = ["import_contents", "import_module", "is_imported"]
