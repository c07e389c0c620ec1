"""The command line. Modules here import torch only inside functions: ``--help`` and completion stay quick."""
