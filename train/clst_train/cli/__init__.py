"""The commands `clst-train` and `clst-data`: parse, call, print."""


def __getattr__(name: str) -> object:
    """Until version 0.2: where `main` has gone, which lay here."""
    if name == "main":
        raise ImportError("clst_train.cli.main is now clst_train.cli.train.main")
    raise AttributeError(name)
