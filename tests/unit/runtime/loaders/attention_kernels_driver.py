"""What test_attention_kernels.py runs in the ranks' environment; prints one JSON list.

Usage: python attention_kernels_driver.py PACKAGE_FOLDER CASES; a case: [architecture, latents, what is installed].
"""

import json
import sys


def main() -> None:
    """Print what is chosen in each case, or the refusal."""
    from runtime.common.errors import LoadError
    from runtime.rank.engines.core.attention_kernels import Installed

    found: list[int | str] = []
    for architecture, latents, names in json.loads(sys.argv[2]):
        try:
            found.append(Installed(**dict.fromkeys(names, True)).generation(architecture, latents=latents))
        except LoadError as error:
            found.append(str(error))
    print(json.dumps(found))


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    main()
