"""``train.py``, which lies beside this package, from any folder."""
# ruff: noqa: E402  a user's own train.py is refused before it is carried out

from mozoo.shadows import check_packages

check_packages("train")

from train import build, main, train_step

__all__ = ["build", "main", "train_step"]
