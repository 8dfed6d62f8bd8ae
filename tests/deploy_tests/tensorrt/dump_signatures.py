"""Print, as JSON, what the bindings of a wheel declare. Runs in a process of its own: FOLDER MODULE LIBRARY…

The bindings need NVIDIA's libraries only to be there, so empty ones of the right names are loaded first.
"""

import ctypes
import importlib
import json
import sys


def describe(kind):
    members = {}
    for name in sorted(vars(kind)):
        value = vars(kind)[name]
        if name.startswith("__") and name not in ("__init__", "__len__", "__getitem__", "__iter__"):
            continue
        if isinstance(value, property):
            doc = (value.fget.__doc__ or "") if value.fget else ""
            members[name] = {"kind": "property", "doc": doc, "settable": value.fset is not None}
        elif isinstance(value, type):
            members[name] = {"kind": "class", **describe(value)}
        elif callable(value) or type(value).__name__ in ("instancemethod", "staticmethod"):
            static = type(value).__name__ in ("staticmethod", "builtin_function_or_method")
            members[name] = {"kind": "method", "doc": getattr(kind, name).__doc__ or "", "static": static}
    enum = sorted(getattr(kind, "__members__", {}))
    bases = [base.__name__ for base in kind.__bases__ if base.__name__ not in ("pybind11_object", "object")]
    return {"bases": bases, "members": members, "enum": enum}


def main(folder, module, libraries):
    for library in libraries:
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    sys.path.insert(0, folder)
    bindings = importlib.import_module(module)
    classes = {name: describe(value) for name, value in vars(bindings).items() if isinstance(value, type)}
    sys.stdout.write(json.dumps({"version": bindings.__version__, "classes": classes}))


main(sys.argv[1], sys.argv[2], sys.argv[3:])
