"""The command as ``python -m heimdall_lab.cli``."""

from heimdall_lab.cli import main

if __name__ == "__main__":
    main()
