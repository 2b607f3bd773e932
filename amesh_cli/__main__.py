"""`amesh` and `python -m amesh_cli`."""

from amesh_cli.app import main

if __name__ == "__main__":
    main()
