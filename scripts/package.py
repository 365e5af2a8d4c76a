"""Write the folder and the zip that the MONAI model zoo takes, without tests, with what it asks for checked.

    python scripts/package.py --output dist --exports
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bundle.errors import one_line_errors  # noqa: E402
from bundle.packaging import package  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for both")
    parser.add_argument("--exports", action="store_true", help="with models/model.ts (TorchScript) and models/model.onnx; needs the extra 'export'")
    parser.add_argument("--url", help="folder on the network for files over 25 MB, which are left out and listed in large_files.yml")
    args = parser.parse_args()
    one_line_errors()
    folder = package(args.output, exports=args.exports, url=args.url)
    print(f"wrote {folder} and {folder}.zip")


if __name__ == "__main__":
    main()
