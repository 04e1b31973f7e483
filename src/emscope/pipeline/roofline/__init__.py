"""How far the hot loops are from what a machine can do: its rates, the arithmetic and the bytes that a loop needs."""
