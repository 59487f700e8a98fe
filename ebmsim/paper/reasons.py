"""What each section compares, and why a published result differs from ours where it does: found, not assumed."""

from __future__ import annotations

_NOTES = {
    "table1": """
        T_inf of both models on one rtx5090, with as many chains. The paper names neither its conventional models nor
        its device; `documented` ones come from the published code or comparison, others stand in. Accuracies are not
        modelled.""",
    "table2": """
        Derived tags come from the graph alone; where they differ from the declared ones the file gives the reason.""",
    "table3": """
        Sizes: fp32, allocated parameters of all instances; CCSP's MLPs with the encoder of poses, time and decoder.
        Intensities of a forward pass by three rules: `products` (matrix products and convolutions alone, each reading
        its operands and writing its result once, at the ledger's batch; this one is compared), `unfused` (all operators
        likewise), `weights` (FLOPs of one chain over the bytes of the weights). The paper does not say how it counts;
        the range is over the three.""",
    "table4": """
        The paper prints steps and accuracies, not times: its own statement is that time is linear in steps.""",
    "fig3": """
        Ranges are over the admissible settings of each workload, one change at a time.""",
    "fig4": """
        Inference at the ledger's settings; training on rtx5090, with everything an iteration does beside sampling
        counted to steps 5 and 6 (forwards on both samples, weight gradients, second-order terms, optimiser, buffers).
        EqM and CCSP do not sample in training.""",
    "fig5": """
        A component is compute-bound where its products' intensity is above the ridge of fp32 peak and main memory.""",
    "fig6": """
        Shares of device-busy time on rtx5090 under the one table of categories. 50 to 69 % is what the text gives for
        three workloads together; IRED's shares are at graph connectivity, the task whose network concatenates.""",
    "fig7": """
        Time added per step between 10, 20 and 40 steps (IRED 100 to 400, CMP 200 to 320) on rtx5090.""",
    "streams": """
        One mechanism for all: branches limited by the longest of them, by what kernels keep of the units, by every
        memory level, and by one issuing host thread. The range also goes over the profile's `sharing` from 0 to 1 and
        over captured launches (`--execution graph`): the paper does not say how it launched, and where one eager thread
        binds no overlap shows.""",
}
_CVR_SIZE = """
    The width of the profiled checkpoint is not published. No width gives all three sizes (f = 32 comes to 17.5, 7.6
    and 3.6 MB with the maps of conditions); f = 64 gives the printed intensities within 8 %, and was chosen for it."""
_SCORE = """
    The published solver runs its networks as scores, forward only, so there is no backward pass. As energies
    (`--preset energy`) backward is 0.6 of forward: the condition's encoders are not differentiated."""
_REASONS = {
    ("table1", "ebm_cmp"): """
        No conventional model of faces is named. The authors' own generator draws cubes at 64 × 64 in 0.16 GMAC; widened
        for faces, the ratio is 2300. The printed one is about the number of steps: a model as costly as one sampling
        step (T_inf / T_samp is 412).""",
    ("table1", "rrr"): """
        As a score network in 100 reverse steps the same U-Net costs a 23rd, in 10 steps a 230th; one pass of it would
        be a 2300th. The printed ratio is that of about seven passes.""",
    ("table1", "ebm_igm"): """
        A regressor on a 64 × 64 image takes 1.4 ms. The printed ratio would need a model as slow as five sampling steps
        (85 ms). Not found.""",
    ("table3", "ebm_imp CNN: intensity"): """
        The printed figure is that of one chain's FLOPs over the bytes of the weights (56.8).""",
    ("table3", "ebm_eqm Transformer: intensity"): """
        The printed figure is that of one chain's FLOPs over the bytes of the weights.""",
    ("table3", "ebm_cmp Duplicated CNNs: intensity"): """
        Between the rules: 102 over products at batch 64, 139 over the weights.""",
    ("table3", "ebm_cvr CLIP: intensity"): """
        The printed figure is that of one text's FLOPs over the bytes of the weights (23.6).""",
    ("table3", "ired MLP: size"): """
        One copy of the weights is 6.57 MB. Five (weights, average, two moments, one more) are 31.3 MiB, which is a
        reading, not a fact.""",
    ("table3", "ebm_cvr CNN 128x128: size"): _CVR_SIZE,
    ("table3", "ebm_cvr CNN 64x64: size"): _CVR_SIZE,
    ("table3", "ebm_cvr CNN 32x32: size"): _CVR_SIZE,
    ("table3", "ccsp MLP: size"): """
        7.6 MB with two types of constraint, 36 MB with thirteen: which task was profiled is not known.""",
    ("table3", "ccsp MLP: intensity"): """
        The printed figure is near the unfused one at 100 problems (39.9), and near products' in the qualitative task,
        where types have three to four edges a problem.""",
    ("table3", "ccsp CNN Encoder: size"): """
        No task of the published code has an encoder above 2.2 MB. Not found.""",
    ("table3", "ccsp CNN Encoder: intensity"): """
        The printed figure is that of products for a single problem (20.6).""",
    ("fig3", "ebm_imp's gain on tpu_v6e over the others' median"): """
        At 128 images its convolutions (128 and 256 channels) fill the systolic arrays in one bf16 pass, and launches do
        not bind. With fp32 products on the TPU (`--math strict`) the statement holds: 0.77.""",
    ("fig4", "ired: backward over forward on tpu_v6e"): """
        The step is so short (0.33 ms) that the device waits for the host's trace, and the wait falls to the forward,
        which comes first. Captured (`--execution graph`) backward is 0.87 of forward.""",
    ("fig4", "ccsp: backward over forward on ryzen9900x"): _SCORE,
    ("fig4", "ccsp: backward over forward on rtx5090"): _SCORE,
    ("fig4", "ccsp: backward over forward on tpu_v6e"): _SCORE,
    ("fig4", "ired: steps 5 and 6 in training"): """
        IRED's published training takes two sampling steps an iteration, and its denoising loss differentiates a
        gradient: the paper's own condition, the number of steps in training, is what moves the share.""",
    ("fig5", "ccsp constraint"): """
        At the ledger's task all edges of a problem are of two types, and a type's products come to 106 FLOPs/B at 100
        problems. With thirteen types (`--preset qualitative`), and at the printed 42, they are below the ridge. Either
        way launches bind the step, not memory.""",
    ("fig6", "ebm_imp convolution"): """
        The published network has nothing but convolutions and activations, so its convolutions take what its copies
        do not. With fp32 convolutions (`--math strict`, Winograd) they take 80 %; TF32 convolutions, for which no
        measured table was found, are modelled with the fractions of fp32 ones. See also the share of movement.""",
    ("fig6", "ebm_imp movement"): """
        The published network copies nothing in a step. cuDNN's tensor-core convolutions turn NCHW tensors round before
        and after, in kernels of their own that a profiler shows as copies; they are part of the convolution here. Two
        such passes over all operands would be 13 % of this step (20 % of one with fp32 convolutions).""",
    ("streams", "ired"): """
        One network evaluates one energy at a time and its landscapes follow one another, so there is nothing to put
        side by side. Batches of 2048 answers in streams of their own would gain 1.25, as the next row has it.""",
    ("streams", "ccsp"): """
        Its step is bound by the host, which issues all streams in one thread and waits for the graph's copies and
        masks. Where launches do not bind, the gain is 1.24 here and 1.55 in the qualitative task: the printed one lies
        between.""",
}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def note(section: str) -> str:
    """What a section compares, and what not."""
    return _one_line(_NOTES[section])


def reason(section: str, name: str) -> str:
    """The reason recorded for a row of a section; "" where there is none."""
    return _one_line(_REASONS.get((section, name), ""))


def recorded() -> set[tuple[str, str]]:
    """The rows that have a reason."""
    return set(_REASONS)
