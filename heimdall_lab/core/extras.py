"""Optional parts of the installation: which extra brings a package that is not there."""

EXTRAS = {  # import names, by the smallest extra of pyproject.toml that brings them
    "learn": ("bokeh", "holoviews", "jinja2", "lightning", "mlflow", "onnx", "onnxscript", "torch"),
    "app": ("fastapi", "fastapi_offline", "httpx", "panel", "panel_material_ui", "param"),
    "gpu": ("cupy",),
}


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """Say how to install a package that an import did not find; None if no extra brings it.

    >>> missing_extra(ModuleNotFoundError("No module named 'torch'", name="torch"))
    "torch is not installed; pip install 'heimdall-lab[learn]'"
    """
    package = (error.name or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if package in packages:
            return f"{package} is not installed; pip install 'heimdall-lab[{extra}]'"
    return None
