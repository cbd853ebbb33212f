"""The commands `clst-export` and `clst-demo`: parse, call, print."""


def __getattr__(name: str) -> object:
    """Until version 0.2: where `main` has gone, which lay here."""
    if name == "main":
        raise ImportError("clst_export.cli.main is now clst_export.cli.export.main")
    raise AttributeError(name)
