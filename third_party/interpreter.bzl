"""Asks the Python interpreter that the build is for."""

# Make sets them. The stamp names the versions of what was asked, so that an upgrade in place is asked again.
ENVIRON = ["DWSCONV_PYTHON", "DWSCONV_STAMP"]

def ask(ctx, code, what):
    """Runs `code` in the interpreter and returns the lines it prints.

    Args:
      ctx: the repository rule's context.
      code: Python source.
      what: what is asked for, to word the error.

    Returns:
      A list of strings.
    """
    python = ctx.os.environ.get("DWSCONV_PYTHON", "")
    if not python:
        python = str(ctx.path(Label("//:WORKSPACE")).dirname) + "/.venv/bin/python"
    # The first import of a TensorFlow that has just been installed takes minutes on a slow disk.
    result = ctx.execute([python, "-c", code], timeout = 7200, environment = {"TF_CPP_MIN_LOG_LEVEL": "3"})
    if result.return_code != 0:
        fail("\n".join([
            "cannot find %s with the Python interpreter %s" % (what, python),
            "Run `make venv`, or set DWSCONV_PYTHON to an interpreter that has it.",
            result.stdout + result.stderr,
        ]))
    return result.stdout.strip().split("\n")
