"""`python -m clst_train`, and so `torchrun -m clst_train`: the command `clst-train`."""

from clst_train.cli.train import main

if __name__ == "__main__":
    main(prog_name="clst-train")
