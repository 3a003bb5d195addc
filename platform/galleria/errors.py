"""The errors a user can meet. Each message names the value that was wrong and what to do about it.

::

    GalleriaError
    ├── ConfigurationError        an argument, a recipe or a serving file cannot be carried out
    ├── DataError                 a data set, or one row of it, cannot be used
    │   ├── SchemaError           a column is missing or has another type
    │   ├── EmptyDatasetError     nothing usable is left
    │   └── MediaError            bytes that should be a picture or a video
    │       ├── UnsupportedMediaError   of a kind that is not read here     (HTTP 415)
    │       ├── MediaTooLargeError      over a limit                        (HTTP 413)
    │       └── BrokenMediaError        damaged, truncated or empty         (HTTP 422)
    ├── BundleError               a bundle is missing, damaged or made for something else
    ├── IndexDamagedError         an index is missing, damaged, or does not fit its bundle
    ├── CatalogFullError          the disk of the product table is full                       (HTTP 507)
    ├── StorageError              the storage of a table or of releases cannot be reached     (HTTP 503)
    └── ReleaseChangedError       a write is for another release than the alias's             (HTTP 503)
"""


class GalleriaError(Exception):
    """Base of every error that the caller can fix."""


class ConfigurationError(GalleriaError):
    """An argument, a recipe or a serving file cannot be carried out."""


class DataError(GalleriaError):
    """A data set, or one row of it, cannot be used."""


class SchemaError(DataError):
    """A column is missing or has another type than the family asks for."""


class EmptyDatasetError(DataError):
    """No usable row is left."""


class MediaError(DataError):
    """Bytes that should be a picture or a video are not one that can be used."""


class UnsupportedMediaError(MediaError):
    """The content is of a kind that is not read here."""


class MediaTooLargeError(MediaError):
    """The content is over a limit of `galleria.media.limits`."""


class BrokenMediaError(MediaError):
    """The content is damaged, truncated or empty."""


class BundleError(GalleriaError):
    """A bundle is missing, damaged, or was made for something else."""


class IndexDamagedError(GalleriaError):
    """An index is missing, damaged, or does not belong to the bundle in use."""


class CatalogFullError(GalleriaError):
    """The disk of the product table is full; reads still work."""


class StorageError(GalleriaError):
    """The storage of a table or of releases cannot be read or written now. What failed may work later, unchanged."""


class ReleaseChangedError(GalleriaError):
    """A write would be missing in a catalogue that an alias resolves to. It is not acknowledged."""
