"""Of convert_saved_model."""

from mutant_faults._fault import Fault

_GRAPHS = "tf_dwsconv/convert/graphs"
_NETWORKS = "convert/test_graph_networks.py"
_DETECTORS = "convert/test_graph_detectors.py"
_CHOICES = "convert/test_graph_choices.py"

FAULTS = (
    Fault(
        "a program's inputs where they were before another one",
        f"{_GRAPHS}/_networks.py",
        "[moved.get(ref, ref) for ref in inputs if ref is not None]",
        "[ref for ref in inputs if ref is not None]",
        (f"{_DETECTORS}::test_hand", _NETWORKS),
    ),
    Fault(
        "paths through nodes that no layer stands for",
        f"{_GRAPHS}/_networks.py",
        "return self._known[ref]",
        "return []",
        (f"{_NETWORKS}::test_a_path_that_leaves_and_comes_back",),
    ),
    Fault(
        "the way back: inputs where they were before another program's",
        f"{_GRAPHS}/_builtin.py",
        "[moved.get(t.name, t.name) for t in ours.tensors]",
        "[t.name for t in ours.tensors]",
        (f"{_DETECTORS}::test_hand",),
    ),
    Fault(
        "a mean keeps its axes",
        f"{_GRAPHS}/_reductions.py",
        "keepdims=keeps",
        "keepdims=True",
        (f"{_NETWORKS}::test_one_program",),
    ),
    Fault(
        "a resize that aligns corners as one of centres",
        f"{_GRAPHS}/_between.py",
        "return before in (1, after)",
        "return True",
        (f"{_DETECTORS}::test_hand",),
    ),
    Fault(
        "a reshape to the batch of another tensor",
        f"{_GRAPHS}/_between.py",
        "first != before[0]",
        "False",
        (f"{_DETECTORS}::test_reshapes_that_may_change_the_pictures_stay",),
    ),
    Fault(
        "what is joined along the batch has the batch of its parts",
        f"{_GRAPHS}/_sizes.py",
        "len(before) == 1 and not is_mixed",
        "len(before) == 1",
        (f"{_DETECTORS}::test_joined_pictures_are_more",),
    ),
    Fault(
        "what a size of some pictures pads is what all do",
        f"{_GRAPHS}/_dilated.py",
        "if not is_same or np.any",
        "if np.any",
        (f"{_DETECTORS}::test_pads_that_depend_on_the_size_are_no_dilation",),
    ),
    Fault(
        "the other branch",
        f"{_GRAPHS}/_choices.py",
        '"then_branch" if np.any(value) else "else_branch"',
        '"else_branch" if np.any(value) else "then_branch"',
        (f"{_CHOICES}::test_what_a_default_chooses",),
    ),
    Fault(
        "the other side of a Switch",
        f"{_GRAPHS}/_choices.py",
        "int(np.any(v))",
        "int(not np.any(v))",
        (f"{_CHOICES}::test_what_a_default_chooses",),
    ),
    Fault(
        "a Merge of a loop like one of a branch",
        f"{_GRAPHS}/_choices.py",
        " and node.name not in loops\n        if is_merge",
        "\n        if is_merge",
        (f"{_CHOICES}::test_nests_of_branches",),
    ),
)
