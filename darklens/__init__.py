"""What dark matter is made of, as seen in strong gravitational lenses: simulate, train, classify.

    import darklens

    images = darklens.simulate("f", "sphere", range(8))    # (8, 150, 150) counts
    network = darklens.load("compact-f")                    # comes with the package; or the path of a checkpoint
    network.predict(images)                                 # (8, 3) probabilities of network.classes
    darklens.fit(images).table()                            # Einstein radius, shear, source, each with its deviation
    darklens.detect(darklens.fit(images)).observed          # where a subhalo is asked for, in standard deviations
    run = darklens.train("images_f", arch="compact")        # as `darklens --data_dir images_f --arch compact`

Everything is described in docs/api.md.
"""

from darklens.version import __version__

__all__ = ["__version__", "detect", "fit", "load", "population", "simulate", "train"]


def __getattr__(name: str) -> object:
    """The public functions, imported when they are first asked for: `import darklens` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'darklens' has no attribute {name!r}: it has {', '.join(__all__)}")
    from darklens import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return list(__all__)
