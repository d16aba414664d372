"""Downloads a checkpoint from ModelScope: `python -m services.weights OWNER/NAME --revision R --target FOLDER`.

Exit status: 0 = all files are there and checked; 1 = the download was refused or the hub cannot be reached (standard
error says why). WEIGHTS_TOKEN holds the hub's token, if any: every user of the machine can read a command line.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import httpx

from services.weights.checksums import WeightsRefusedError, read_checksums
from services.weights.download import download, with_checksums
from services.weights.modelscope import ENDPOINT, list_files, open_hub


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m services.weights")
    parser.add_argument("repository", help="owner/name on the hub")
    parser.add_argument("--revision", default="master", help="branch, tag or commit")
    parser.add_argument("--target", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--endpoint", default="", help=f"URL of the hub; default {ENDPOINT}")
    parser.add_argument(
        "--checksums", type=Path, help='file with lines of "<sha256>  <file>", checked in addition to the hub\'s'
    )
    parser.add_argument(
        "--parallel", type=int, default=4, choices=range(1, 17), metavar="1..16", help="files downloaded at a time"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    endpoint = options.endpoint or ENDPOINT
    try:
        own = read_checksums(options.checksums.read_text()) if options.checksums else {}
        with open_hub(os.environ.get("WEIGHTS_TOKEN", ""), endpoint) as client:
            files = with_checksums(list_files(client, endpoint, options.repository, options.revision), own)
            download(client, files, options.target, parallel=options.parallel)
    except WeightsRefusedError as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 1
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        sys.stderr.write(f"{endpoint}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
