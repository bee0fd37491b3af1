"""The spec: what a person asks for, with loose names allowed (`main`, `>=0.5.10`, a tag).

The shape only; reading YAML with line numbers is `core.spec_text`. Member names in YAML are camelCase.
"""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from bundler.core.paths import path_fault
from bundler.core.specs.image_reference import ImageReference
from bundler.core.units import parse_size
from bundler.errors import MalformedError, UsageError


def _glob(text: str) -> str:
    """Matched against paths in the repository: nothing absolute, nothing that climbs."""
    if text.startswith("/") or "\\" in text or ".." in text.split("/"):
        raise ValueError(
            "a pattern is matched against relative paths with `/`; no leading `/`, no `..`, no `\\`"
        )
    return text


def _bundle_path(text: str) -> str:
    fault = path_fault(text)
    if fault:
        raise ValueError(f"not a path for a bundle: {fault}")
    return text


def _file_name(text: str) -> str:
    if "/" in text:
        raise ValueError("a file name, not a path: it holds `/`")
    return _bundle_path(text)


def _requirement(text: str) -> str:
    """What an index can answer: a project and versions of it, no address."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise ValueError(f"not a requirement such as vllm==0.19.1: {str(error).splitlines()[0]}") from error
    if requirement.url:
        raise ValueError(
            "a requirement names a project and versions, never an address: give an index instead"
        )
    return text


def _image_reference(text: str) -> str:
    try:
        ImageReference.parse(text)
    except MalformedError as error:
        found = error.findings[0]
        raise ValueError(f"{found.what}: {found.expected}" if found.expected else found.what) from error
    return text


def _size_text(text: str) -> str:
    try:
        parse_size(text)
    except UsageError as error:
        raise ValueError("a size such as 768GiB or 141GB") from error
    return text


def _public_url(text: str) -> str:
    """The address enters the lock, so it must not hold a secret."""
    if "@" in text.split("://", 1)[1].split("/", 1)[0]:
        raise ValueError("an address with a user name or password would put it in the lock: leave it out")
    return text


Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")]
"""A short name used in file names and on the command line."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=400, strict=True)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Platform = Annotated[str, StringConstraints(pattern=r"^linux/(amd64|arm64)$")]
Glob = Annotated[Text, AfterValidator(_glob)]
"""A pattern over paths in a repository; `*` also matches `/`."""
PathText = Annotated[Text, AfterValidator(_bundle_path)]
"""A relative path that obeys format.md section 1."""
FileName = Annotated[Text, AfterValidator(_file_name)]
RequirementText = Annotated[Text, AfterValidator(_requirement)]
"""A PEP 508 requirement without an address."""
SizeText = Annotated[
    str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)? ?[KMGTP]i?B$"), AfterValidator(_size_text)
]
"""A size with its unit: `768GiB` is 2^30 bytes each, `141GB` 10^9."""
WebAddress = Annotated[Text, StringConstraints(pattern=r"^https?://[^/\s]+"), AfterValidator(_public_url)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
WeightFormat = Literal[
    "bf16",
    "f16",
    "f32",
    "block-fp8",
    "fp8",
    "mxfp8",
    "int8",
    "int4",
    "int3",
    "int2",
    "mxfp4",
    "nvfp4",
    "gguf",
    "mixed",
    "any",
]
"""How the weights are stored. `mixed`: several or rarer number formats."""
EngineName = Literal["vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers"]
Accelerator = Literal["cuda", "rocm", "cpu"]


class Strict(BaseModel):
    """Frozen; unknown members refused; camelCase outside, snake_case inside."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


class IdentitySpec(Strict):
    """Who a keyless signature is by: what its certificate says, compared exactly."""

    issuer: Text
    """The identity provider, such as `https://token.actions.githubusercontent.com`."""
    san: Text
    """The person, workload or workflow: the certificate's subject alternative name."""


class SignatureSpec(Strict):
    """Whose signature upstream must bear: one key, or one identity of a Sigstore instance.

    A signature by anyone else refuses the lock and the build; that there is none does so with `require`.
    """

    require: bool = False
    """Refuse when there is no such signature."""
    key: Text | None = None
    """The signer's public key: a PEM file of this machine, relative to the spec."""
    identity: IdentitySpec | None = None
    """The signer of a keyless signature; needs `trustedRoot`."""
    trusted_root: Text | None = None
    """The Sigstore instance's `trusted_root.json`: a file of this machine, relative to the spec."""

    @model_validator(mode="after")
    def _one_signer(self) -> SignatureSpec:
        if (self.key is None) == (self.identity is None):
            raise ValueError("name one signer: either key or identity")
        if (self.identity is None) != (self.trusted_root is None):
            raise ValueError("identity and trustedRoot belong together")
        return self


class ModelSignatureSpec(SignatureSpec):
    """Whose OpenSSF Model Signing signature the repository must hold."""

    file: PathText | None = None
    """The signature's file in the repository; `model.sig` and other usual names when left out."""


WorkflowPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.][A-Za-z0-9_./-]{0,399}$")]
RepositoryName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)+$")]


class PublisherSpec(Strict):
    """Who publishes the wheels of a project: a workflow of a repository, or an identity (PEP 740)."""

    project: Text
    """Project name, or `*` for all that no other publisher names."""
    github: RepositoryName | None = None
    """`owner/repository` on GitHub; needs `workflow`."""
    gitlab: RepositoryName | None = None
    """`group/project` on GitLab.com; needs `workflow`."""
    workflow: WorkflowPath | None = None
    """File of the workflow: `release.yml` in `.github/workflows`, or a path in a GitLab project."""
    identity: IdentitySpec | None = None
    """Any other signer."""

    @model_validator(mode="after")
    def _one_signer(self) -> PublisherSpec:
        if [self.github, self.gitlab, self.identity].count(None) != 2:
            raise ValueError("name one publisher: github, gitlab or identity")
        if (self.workflow is None) != (self.identity is not None):
            raise ValueError("github and gitlab need workflow, and identity has none")
        return self


class AttestationsSpec(Strict):
    """Whose publish attestations (PEP 740) the wheels of an engine must have.

    An attestation by another publisher refuses the lock and the build; that there is none does so for
    the projects of `require`.
    """

    publishers: Annotated[tuple[PublisherSpec, ...], Field(min_length=1)]
    """One entry for each project whose publisher is known."""
    require: tuple[Text, ...] = ()
    """Projects that must have an attestation by their publisher; `*` for every wheel."""
    trusted_root: Text
    """The Sigstore instance's `trusted_root.json`: a file of this machine, relative to the spec."""

    @model_validator(mode="after")
    def _names_agree(self) -> AttestationsSpec:
        names = [canonicalize_name(item.project) for item in self.publishers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"publishers name {', '.join(twice)} twice")
        missing = {canonicalize_name(name) for name in self.require} - {*names, "*"}
        if missing and "*" not in names:
            raise ValueError(f"require names {', '.join(sorted(missing))} without a publisher")
        return self


class ModelSpec(Strict):
    """A model repository on a Hugging Face Hub."""

    repo: Annotated[
        str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*$")
    ]
    """Repository as `organisation/name`."""
    revision: Text = "main"
    """Branch, tag or commit; the lock pins the 40-hex commit."""
    id: Identifier | None = None
    """Short name for launch profiles; the lower-cased repository name when left out."""
    include: Annotated[tuple[Glob, ...], Field(min_length=1)] = ("*",)
    """Glob patterns of files to take; `*` also matches `/`."""
    exclude: tuple[Glob, ...] = ()
    """Glob patterns of files to leave out."""
    format: WeightFormat = "any"
    """What the weights must be; checked in the files themselves before sealing."""
    endpoint: Text | None = None
    """Base URL of the Hub; HF_ENDPOINT or the public Hub when left out."""
    allow_pickle: tuple[Text, ...] = ()
    """Names of pickle-based files that are waived; all others are refused."""
    license: Text | None = None
    """SPDX expression concluded by a person, when the declared one is not enough."""
    signature: ModelSignatureSpec | None = None
    """Who signed the model upstream (OpenSSF Model Signing)."""

    @property
    def identifier(self) -> str:
        """`id`, or the lower-cased repository name."""
        return self.id or self.repo.split("/")[1].lower()


class IndexSpec(Strict):
    """A package index beside the default one; only packages sent there by `sources` come from it."""

    name: Identifier
    """Name used in `sources` and in the lock; the URL never enters the lock."""
    url: Text
    """Base URL (`simple`) or a folder or page of links (`flat`); `${VARIABLE}` comes from the environment."""
    format: Literal["simple", "flat"] = "simple"
    """How the index lists files."""
    explicit: Literal[True] = True
    """Always explicit: an implicit extra index is how dependency confusion happens."""


class EngineSpec(Strict):
    """An inference engine as Python wheels for one target."""

    name: EngineName
    """Which engine it is: decides flags, environment and checks."""
    requirement: RequirementText
    """Requirement such as `vllm==0.19.1`."""
    id: Identifier | None = None
    """Short name for launch profiles and folders; the engine's name when left out."""
    python: Annotated[str, StringConstraints(pattern=r"^3\.(1[0-9])$")] = "3.12"
    """CPython version of the target."""
    platform: Platform = "linux/amd64"
    """Operating system and architecture of the target."""
    glibc: Annotated[str, StringConstraints(pattern=r"^2\.[0-9]{1,2}$")] = "2.31"
    """Oldest glibc the wheels may need."""
    accelerator: Accelerator = "cuda"
    """What the engine computes on; `cuda` refuses a torch without CUDA libraries."""
    exclude_newer: datetime.date | None = None
    """Ignore packages uploaded after this day: without it an old engine gets new, untested dependencies."""
    indexes: tuple[IndexSpec, ...] = ()
    """Further indexes, used only through `sources`."""
    sources: dict[Text, Identifier] = Field(default_factory=dict)
    """Project name to index name."""
    overrides: tuple[RequirementText, ...] = ()
    """Requirements that replace what packages ask for."""
    with_: tuple[RequirementText, ...] = Field(default=(), alias="with")
    """Further requirements to install beside the engine."""
    attestations: AttestationsSpec | None = None
    """Who published the wheels upstream (PEP 740)."""

    @property
    def identifier(self) -> str:
        """`id`, or the engine's name."""
        return self.id or self.name

    @model_validator(mode="after")
    def _sources_name_indexes(self) -> EngineSpec:
        unknown = set(self.sources.values()) - {index.name for index in self.indexes}
        if unknown:
            raise ValueError(f"sources name indexes that are not listed: {', '.join(sorted(unknown))}")
        return self


class ImageSpec(Strict):
    """A container image; several platforms of it if wanted."""

    reference: Annotated[Text, AfterValidator(_image_reference)]
    """Registry reference with a tag, a digest or both."""
    platforms: Annotated[tuple[Platform, ...], Field(min_length=1)] = ("linux/amd64",)
    """Platforms carried in full."""
    plain_http: bool = False
    """Talk to the registry without TLS: loopback and test registries only."""
    signature: SignatureSpec | None = None
    """Who signed the image upstream (cosign)."""


class FileSpec(Strict):
    """Any other file: from a URL with its SHA-256, or from this machine."""

    path: PathText
    """Where it goes below `payload/files/`."""
    url: WebAddress | None = None
    """Where to fetch it."""
    sha256: Sha256 | None = None
    """Its digest; needed with `url`."""
    source: Text | None = None
    """A local path, relative to the spec."""

    @model_validator(mode="after")
    def _one_origin(self) -> FileSpec:
        if (self.url is None) == (self.source is None):
            raise ValueError("give either url or source")
        if self.url is not None and self.sha256 is None:
            raise ValueError("a url needs its sha256: without it the file cannot be pinned")
        return self


class DocumentSpec(Strict):
    """A licence text, opinion or other document to carry."""

    source: Text
    """A local path, relative to the spec."""
    name: FileName | None = None
    """File name in the bundle; the source's own name when left out."""
    title: Text | None = None
    """What a reader calls it."""
    applies_to: tuple[Text, ...] = ()
    """Identifiers of models and engines or references of images it is about; empty for the whole bundle."""


class LaunchSpec(Strict):
    """One way to start a server from the bundle."""

    profile: Identifier
    """Name on the command line."""
    engine: Identifier
    """Identifier of the engine."""
    model: Identifier
    """Identifier of the model."""
    served_name: Text
    """Model name clients must send."""
    model_file: PathText | None = None
    """File inside the model to open (first GGUF shard), or a pattern that matches one; the lock names it.

    The model's folder when left out.
    """
    host: Text = "0.0.0.0"  # noqa: S104 - the reference launch binds all interfaces inside the perimeter
    """Address to bind."""
    port: int = Field(default=8000, ge=1, le=65535)
    """TCP port to bind."""
    context_length: int | None = Field(default=None, ge=1)
    """Tokens of context; what the model's configuration says when left out."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that share each layer: a power of two."""
    gpu_memory_utilization: Annotated[str, StringConstraints(pattern=r"^0\.([1-9][0-9]?|0[1-9])$")] = "0.90"
    """Share of each GPU's memory the engine may take, as text (quoted in YAML)."""
    tool_call_parser: Identifier | None = None
    """`kimi_k2` for the Kimi family."""
    reasoning_parser: Identifier | None = None
    """`kimi_k2` for the Kimi family."""
    trust_remote_code: bool = False
    """Whether the model's own Python code may run; each such file is listed in the manifest."""
    kv_cache_dtype: Text | None = None
    """Type of the KV cache when not the model's own."""
    arguments: tuple[Text, ...] = ()
    """Further engine flags, checked against the engine version's flag table."""
    environment: dict[VariableName, str] = Field(default_factory=dict)
    """Further environment variables, from the engine's allow-list only."""

    @model_validator(mode="after")
    def _power_of_two(self) -> LaunchSpec:
        if self.tensor_parallel & (self.tensor_parallel - 1):
            raise ValueError(f"tensorParallel is a power of two, not {self.tensor_parallel}")
        return self


class NodeSpec(Strict):
    """The machine the bundle is sized for: its GPUs, its main memory, or both."""

    gpu: Text | None = None
    """GPU kind, such as `H200-141G`; `sealift plan --gpus` lists them. Left out for a machine without."""
    count: int = Field(default=0, ge=0, le=4096)
    """GPUs in all, over all machines that serve together."""
    memory: SizeText | None = None
    """Usable memory of one GPU, for a kind that sealift does not know: what `nvidia-smi` prints as total."""
    ram: SizeText | None = None
    """Main memory, for engines that compute on the CPU."""

    @model_validator(mode="after")
    def _says_something(self) -> NodeSpec:
        if (self.gpu is None) != (self.count == 0):
            raise ValueError("give gpu and count together")
        if self.gpu is None and self.memory is not None:
            raise ValueError("memory is that of one GPU: give gpu and count with it; main memory is `ram`")
        if self.gpu is None and self.ram is None:
            raise ValueError("give gpu and count, or ram, or all three")
        return self


class Spec(Strict):
    """One bundle as a person asks for it."""

    model_config = ConfigDict(title="sealift spec")

    api_version: Literal["sealift/v1"]
    """Version of this file's form."""
    name: Identifier
    """Name of the bundle; part of file names."""
    channel: Text
    """Serials count up within a channel; a verifier refuses to go back."""
    serial: int = Field(ge=0, le=2**53 - 1)
    """Never reused in a channel."""
    models: tuple[ModelSpec, ...] = ()
    """Model repositories to carry."""
    engines: tuple[EngineSpec, ...] = ()
    """Inference engines to carry as wheels, each with everything it needs."""
    images: tuple[ImageSpec, ...] = ()
    """Container images to carry."""
    files: tuple[FileSpec, ...] = ()
    """Any other files to carry."""
    licenses: tuple[DocumentSpec, ...] = ()
    """Licence texts to carry beside those in the models and wheels."""
    documents: tuple[DocumentSpec, ...] = ()
    """Opinions, assessments and other documents to carry."""
    launch: tuple[LaunchSpec, ...] = ()
    """Ways to start a server from the bundle."""
    node: NodeSpec | None = None
    """The machine it is sized for; a bundle that cannot fit is refused."""

    @model_validator(mode="after")
    def _names_agree(self) -> Spec:
        faults = [*_twice(self), *_unknown_names(self)]
        if not (self.models or self.engines or self.images or self.files or self.licenses or self.documents):
            faults.append("nothing to carry: list models, engines, images or files")
        if faults:
            raise ValueError("; ".join(faults))
        return self


def _twice(spec: Spec) -> list[str]:
    """Faults for names that must be distinct."""
    names = {
        "models": [model.identifier for model in spec.models],
        "engines": [engine.identifier for engine in spec.engines],
        "images": [image.reference for image in spec.images],
        "files": [item.path for item in spec.files],
        "launch": [profile.profile for profile in spec.launch],
    }
    return [
        f"{where}: {name} is used twice; give each its own"
        for where, used in names.items()
        for name in sorted({name for name in used if used.count(name) > 1})
    ]


def _unknown_names(spec: Spec) -> list[str]:
    """Faults for names that point to nothing."""
    models = {model.identifier for model in spec.models}
    engines = {engine.identifier for engine in spec.engines}
    about = models | engines | {image.reference for image in spec.images}
    faults = []
    for profile in spec.launch:
        if profile.model not in models:
            faults.append(f"launch profile {profile.profile} names the unknown model {profile.model}")
        if profile.engine not in engines:
            faults.append(f"launch profile {profile.profile} names the unknown engine {profile.engine}")
    for document in (*spec.licenses, *spec.documents):
        faults += [
            f"{document.source} applies to the unknown {name}"
            for name in document.applies_to
            if name not in about
        ]
    return faults
