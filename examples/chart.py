"""Draws: numbers, a table and a chart come back as results."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

x = np.linspace(0, 4 * np.pi, 400)
plt.plot(x, np.sin(x), label="sin")
plt.plot(x, np.cos(x), label="cos")
plt.title("Drawn in a sandbox")
plt.legend()
plt.show()

pd.DataFrame({"x": [0, 1, 2], "sin(x)": np.sin([0, 1, 2]).round(3)})
