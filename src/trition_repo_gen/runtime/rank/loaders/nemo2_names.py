"""Allow-list of what the configuration graph of a NeMo 2.0 checkpoint may name, in two parts.

The model's configuration is built from the graph: what it names is imported and may be called with arguments that the
graph chooses. So a short list allows only classes and functions that describe a model. The rest of the graph is the
trainer that made the checkpoint. It is never built, but may still name nothing outside of NeMo and its libraries.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Symbol:
    """A class, a function or a member of an enumeration that the graph names; it is not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


# fiddle's and nemo-run's own nodes, and the containers between them.
BUILDABLES = {
    Symbol("fiddle._src.config", "Config"),
    Symbol("fiddle._src.config", "Partial"),
    Symbol("fiddle._src.partial", "Partial"),
    Symbol("nemo_run.config", "Config"),
    Symbol("nemo_run.config", "Partial"),
}
METADATA = Symbol("fiddle._src.config", "BuildableTraverserMetadata")
NO_VALUE = Symbol("fiddle._src.config", "NoValue")
CONTAINERS = {Symbol("builtins", name) for name in ("dict", "list", "tuple", "set", "frozenset")}
PLAIN = {Symbol("builtins", name) for name in ("int", "float", "str", "bool", "bytes", "slice")}
_ALWAYS = BUILDABLES | CONTAINERS | PLAIN | {METADATA, NO_VALUE}

# What a model's configuration consists of in checkpoints that nemo-toolkit 2.0 to 2.7 wrote: patterns for the whole
# module and the whole name. A name is one identifier, except for members of enumerations: a name with dots could reach
# through a module to another (`torch` and `os.system`). No entry calls its arguments, imports by name, or opens a file.
_MODEL_NAMES = tuple(
    (re.compile(module), re.compile(name))
    for module, name in (
        (r"torch", r"(?:bfloat|float|complex|int)\d+|uint8|bool|half|float|double"),
        (r"torch\.nn\.functional|torch\._C\._nn", r"gelu|silu|relu|relu6|leaky_relu|elu|selu|tanh|softplus|hardswish"),
        (r"torch", r"tanh|sigmoid|relu"),
        (r"torch\.nn\.init", r"(?:normal|uniform|zeros|ones|constant|xavier_\w+|kaiming_\w+|trunc_normal|orthogonal)_"),
        (r"megatron\.core\.activations", r"(?:quick|fast)_gelu|squared_relu"),
        (r"megatron\.core\.fusions\.fused_bias_(?:geglu|gelu|swiglu)", r"quick_gelu|bias_\w+_impl"),
        (r"megatron\.core\.utils", r"(?:scaled_)?init_method_normal"),
        (r"megatron\.core\.(?:transformer\.)?enums", r"[A-Z]\w*(?:\.[A-Za-z]\w*)?"),
        (r"megatron\.core\.transformer\.transformer_config", r"(?:MLA)?TransformerConfig"),
        (r"megatron\.core\.model_parallel_config", r"ModelParallelConfig"),
        (r"nemo\.collections\.(?:llm|vlm)(?:\.\w+)*", r"[A-Z]\w*Config\w*"),
        (r"nemo\.collections\.vlm\.vision(?:\.\w+)*", r"[A-Z]\w*_Config"),
        (r"nemo\.collections\.(?:llm|vlm)(?:\.\w+)*", r"\w+_(?:data|forward)_step"),
        (r"nemo\.collections\.llm\.gpt\.model\.\w+", r"(?:default|local|transformer_engine(?:_full)?)_layer_spec"),
        (r"nemo\.collections\.(?:llm|vlm)(?:\.\w+)*", r"get_(?:\w+_)?layer_spec(?:_\w+)?"),
        (r"nemo\.collections\.llm\.fn\.activation", r"\w*(?:gelu|relu|silu)\w*"),
        (r"nemo\.collections\.llm\.gpt\.model\.base", r"torch_dtype_from_(?:mcore|dict)_config"),
    )
)

# What the rest of the graph may name besides: the trainer, its callbacks, optimizer and data. None of it is imported.
_OTHER_NAMES = tuple(
    (re.compile(module), re.compile(name))
    for module, name in (
        (r"nemo\.(?:lightning|collections|core)(?:\.\w+)*|nemo\.utils\.(?:exp_manager|callbacks(?:\.\w+)*)", r".*"),
        (r"megatron\.(?:core|energon)(?:\.\w+)*", r".*"),
        (r"lightning\.(?:pytorch|fabric)(?:\.\w+)*", r"[A-Z]\w*(?:\.\w+)?"),
        (r"torch\.(?:optim|nn|utils\.data|distributed)(?:\.\w+)*", r"[A-Z]\w*(?:\.\w+)?"),
        (r"torch", r"device|Size|dtype"),
        (r"transformers(?:\.\w+)*", r"[A-Z]\w*(?:Config|Tokenizer\w*|Processor\w*)(?:\.from_pretrained)?"),
        (r"transformer_engine(?:\.\w+)*", r"[A-Z]\w*(?:\.\w+)?"),
        (r"nemo_run\.config", r"[A-Z]\w*"),
        (r"fiddle\._src\.\w+", r"[A-Z]\w*"),
        (r"collections", r"OrderedDict|defaultdict"),
        (r"functools", r"partial"),
        (r"pathlib", r"\w*Path"),
        (r"datetime", r"timedelta|datetime"),
        (r"signal", r"Signals(?:\.\w+)?"),
        (r"numpy", r"(?:float|int|uint)\d+|bool_|dtype"),
    )
)
# Names that run, import or unpickle their arguments, whichever of the modules above exports them.
_NEVER = re.compile(
    r"eval|exec\w*|compile|open|__\w+__|(?:get|set|del)attr|globals|locals|vars|breakpoint|import\w*|\w*system|\w*popen|Popen"
    r"|os|sys|subprocess|builtins|shutil|pickle|importlib|runpy|ctypes|socket|run|call|check_\w+|getoutput|spawn\w*|fork"
    r"|loads?|load_(?!balanc)\w+|unpickle\w*|Unpickler|PackageImporter|locate|instantiate|get_class|get_object|hub"
)


def allows(symbol: Symbol) -> bool:
    """Whether a model's configuration may name this, so that it may be imported and called."""
    return symbol in _ALWAYS or _matches(_MODEL_NAMES, symbol)


def is_known(symbol: Symbol) -> bool:
    """Whether any part of a graph may name this."""
    if allows(symbol):
        return True
    return _matches(_OTHER_NAMES, symbol) and not any(_NEVER.fullmatch(part) for part in symbol.name.split("."))


IMPORT_PATHS = ("fp8_quantizer_factory", "fp4_quantizer_factory")
"""Arguments whose values Megatron Core imports (`transformer_config.py`, 0.16)."""


def _matches(table: tuple[tuple[re.Pattern[str], re.Pattern[str]], ...], symbol: Symbol) -> bool:
    return any(modules.fullmatch(symbol.module) and names.fullmatch(symbol.name) for modules, names in table)
