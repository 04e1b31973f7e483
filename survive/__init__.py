"""What kills and faults do to emscope's commands, measured: `python -m survive`, or `make survive`.

Every command is run once undisturbed. Then it is run again and again, disturbed each time at another moment or in
another way, and continued by the same words. What it leaves must be what the undisturbed one left, byte for byte but
for times and dates (`comparing` lists them).
"""
