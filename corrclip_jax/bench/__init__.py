"""Where the time goes: `corrclip bench`. Nothing of the method imports this.

`flops` counts a program's arithmetic, `clock` measures the device, `stages` takes the method apart, `measure` puts
the report together and `versus` runs the torch reference of a checkout's tests beside it.
"""
