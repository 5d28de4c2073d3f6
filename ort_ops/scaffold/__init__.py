"""Write the package of a new operator: `mylinear new`."""
