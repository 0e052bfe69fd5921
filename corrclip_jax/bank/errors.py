"""The error of a bank that cannot be used."""


class BankError(ValueError):
    """A bank that is damaged, empty, or made by other networks than those it is used with."""
