"""`python -m segtwin` is the command `segtwin`."""

import sys

try:
    from segtwin_cli.main import main
except ModuleNotFoundError as error:
    print(f"segtwin: the command line is not installed ({error}); pip install 'segtwin[cli]'", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    main()
