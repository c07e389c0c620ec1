"""Hard cases of the exam, one file per kind; those of the default suite are in `models.hard_cases`."""
