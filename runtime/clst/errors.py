"""Exceptions to catch. Each message is one line: what is wrong, with the value, and what to do.

ClstError              base of all; also a model used after `close`, or by two threads at once
  ├─ ConfigError       a setting that is unknown, out of range or contradicts another one
  ├─ DataError         images, labels, videos or folders that cannot be used
  ├─ ModelFileError    a checkpoint, ONNX file, engine or bundle that cannot be used
  ├─ MissingDependency a package or a device that this machine lacks
  └─ BudgetNotHeld     an export that is not as accurate as asked for
"""

from clst_runtime.errors import (
    BudgetNotHeld,
    ClstError,
    ConfigError,
    DataError,
    MissingDependency,
    ModelFileError,
)

__all__ = ["BudgetNotHeld", "ClstError", "ConfigError", "DataError", "MissingDependency", "ModelFileError"]
