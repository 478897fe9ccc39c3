"""``python -m mozoo``: the same as the command ``mozoo``."""

from mozoo.commands.main import main

if __name__ == "__main__":
    main()
