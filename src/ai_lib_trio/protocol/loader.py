"""The catalogue: providers, dialects and models of every source, each read when it is first asked for.

Sources -> `Manifest`, `Dialect`, `ModelRef`. Imports the rest of `protocol`. The rule that must stay true: the first
source that has a name decides it, in the order explicit path, AI_PROTOCOL_DIR, bundled; opening reads no file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import CallerError, ManifestError
from . import sources
from .build import KINDS, decode_data, digest, encode_data, make_index
from .forms import FORM_FIELDS, encode_manifest, encode_models, read_manifest_form, read_models_form
from .manifest import (
    Dialect,
    ErrorRules,
    Manifest,
    Provenance,
    manifest_tree,
    read_dialect,
    read_error_rules,
    read_manifest,
)
from .registry import ModelFacts, ModelRef, Registry, models_of_metadata, read_models
from .sources import Tree
from .tree import Reader, nearest, suggestion
from .trust import OwnKeys, check_fetched, check_variables
from .where import Document

if TYPE_CHECKING:
    from .draft import Promotion
    from .validator import Validator

__all__ = ["Catalog"]


class Catalog:
    """Everything the manifests say. Made by `Catalog.open`; safe to share, nothing in it changes once read."""

    def __init__(self, trees: list[Tree], *, strict: bool = False) -> None:
        self.trees = trees
        self.strict = strict
        self._documents: dict[tuple[int, str, str], Document] = {}
        self._manifests: dict[tuple[int, str], Manifest] = {}
        self._names: dict[int, dict[str, str]] = {}
        self._dialects: dict[tuple[int, str], Dialect] = {}
        self._models: dict[tuple[int, str], list[ModelFacts]] = {}
        self._registry: Registry | None = None
        self._registries: dict[str, Registry] = {}
        self._own_keys: OwnKeys | None = None
        self._error_table: ErrorRules | None = None
        self._validator: Validator | None = None
        self._bases: dict[int, str] = {}

    @classmethod
    def open(
        cls,
        manifests: str | os.PathLike[str] | Tree | None = None,
        environ: Mapping[str, str] | None = None,
        *,
        strict: bool = False,
    ) -> Catalog:
        """The catalogue of an explicit source, `AI_PROTOCOL_DIR` and the bundled set.

        A source is a directory, one file, or a tree that was fetched (transport/remote); the last counts after the
        others, so that it cannot take the place of what is here.

        `environ` is the process's where none is given. With `strict`, unknown keys of files from elsewhere are errors
        too, as they always are in the bundled set. Raises `ManifestError` for a path that is not there.
        """
        variables = os.environ if environ is None else environ
        trees = []
        if isinstance(manifests, Tree):
            trees.append(manifests)
        elif manifests is not None:
            trees.append(sources.given_tree(manifests))
        named = variables.get("AI_PROTOCOL_DIR", "").strip() or variables.get("AI_PROTOCOL_PATH", "").strip()
        if named:
            trees.append(sources.given_tree(named))
        trees.append(sources.bundled_tree())
        return cls(trees, strict=strict)

    def adopt_bundled(self, other: Catalog) -> None:
        """Take over what another catalogue has read of the bundled set. Only where that has not changed since."""
        mine, theirs = len(self.trees) - 1, len(other.trees) - 1
        self.trees[mine] = other.trees[theirs]
        caches: list[tuple[dict[Any, Any], dict[Any, Any]]] = [
            (self._documents, other._documents),
            (self._manifests, other._manifests),
            (self._dialects, other._dialects),
            (self._models, other._models),
        ]
        for own, read in caches:
            own.update({(mine, *key[1:]): found for key, found in list(read.items()) if key[0] == theirs})
        if theirs in other._names:
            self._names[mine] = other._names[theirs]
        self._own_keys, self._error_table, self._validator = other._own_keys, other._error_table, other._validator

    def __repr__(self) -> str:
        return f"<Catalog {', '.join(tree.label for tree in self.trees)}>"

    # ---- providers

    def providers(self, origin: Provenance | None = None) -> list[str]:
        """The id of every provider, or of every one of this origin, sorted."""
        return sorted(
            {
                stem
                for number, tree in enumerate(self.trees)
                if origin in (None, tree.origin)
                for stem in self._stems(number)
            }
        )

    def provider(self, name: str) -> Manifest:
        """A provider by id or alias. Exact: no folding of case or hyphens.

        Raises `CallerError` (unknown_provider) with the nearest names, `ManifestError` for a file that cannot be used.
        """
        place = self._place(name)
        if place is None:
            raise self._unknown_provider(name)
        return self._manifest(*place)

    def loaded(self) -> list[str]:
        """The ids of the providers that were asked for so far."""
        return [manifest.id for manifest in list(self._manifests.values())]

    def has_provider(self, name: str) -> bool:
        """Whether `provider(name)` finds a file."""
        return self._place(name) is not None

    def _unknown_provider(self, name: str) -> CallerError:
        known = suggestion(name, [one for tree in range(len(self.trees)) for one in self._aliases(tree)])
        return CallerError(f"no provider is called {name!r}{known}", kind="unknown_provider")

    def _stems(self, tree: int) -> dict[str, str]:
        """Provider id -> file stem of one tree. They are the same, but for a single file and for files that lie."""
        single = self.trees[tree].single
        if single is not None:
            data = self._document(tree, "single", "").data
            ident = data.get("id") if isinstance(data, dict) else None
            return {ident if isinstance(ident, str) else single.stem: ""}
        return {stem: stem for stem in self.trees[tree].files("providers")}

    def _place(self, name: str) -> tuple[int, str] | None:
        # By file name first: the usual case parses one file. Ids that differ from their file's name, and aliases, need
        # a look into every file, which happens only for a name that no file has. What was fetched comes last.
        numbers = range(len(self.trees))
        fetched = [number for number in numbers if self.trees[number].origin == "fetched"]
        for group in ([number for number in numbers if number not in fetched], fetched):
            for look in (self._stems, self._aliases):
                for tree in group:
                    stem = look(tree).get(name)
                    if stem is not None:
                        return (tree, stem)
        return None

    def _aliases(self, tree: int) -> dict[str, str]:
        """Every name that a provider of one tree goes by -> its file's stem."""
        found = self._names.get(tree)
        if found is None:
            index = self.trees[tree].fresh_index()
            found = dict(index.names) if index is not None else {}
            for stem in self._stems(tree).values() if index is None else ():
                head = self._head(tree, stem)
                for name in (head.get("id"), *(head.get("aliases") or ())):
                    if isinstance(name, str):
                        found.setdefault(name, stem)
            self._names[tree] = found
        return found

    def _head(self, tree: int, stem: str) -> Mapping[str, Any]:
        try:
            data = self._document(tree, "providers" if stem else "single", stem).data
        except ManifestError:
            return {}  # a broken file is its own error, when it is asked for, and not every other name's
        if not isinstance(data, dict) or not isinstance(data.get("aliases") or [], list):
            return {}
        return data

    def _document(self, tree: int, kind: str, stem: str) -> Document:
        key = (tree, kind, stem)
        found = self._documents.get(key)
        if found is None:
            source = self.trees[tree]
            # Of dialects and the tables at the root, `dist` holds the documents themselves.
            built = self._built(tree, kind, stem) if kind in ("dialects", "root") else None
            if built is not None:
                found = Document(decode_data(built), source.name_of(source.files(kind)[stem], kind), {})
            else:
                found = source.read_file(source.single) if kind == "single" else source.read(kind, stem)
            self._documents[key] = found
        return found

    def _built(self, tree: int, kind: str, stem: str) -> bytes | None:
        """What `dist` has of a file, where it was made of this very file by rules that are still the same."""
        source = self.trees[tree]
        index = source.index()
        if index is None or not (source.is_trusted or (not self.strict and index.basis == self._basis(tree))):
            return None
        return source.built(kind, stem)

    def _basis(self, tree: int) -> str:
        """The hash of what loading a tree's files goes by beside the files: dialects, and the words of promotion."""
        found = self._bases.get(tree)
        if found is None:
            bundled, own = self.trees[-1], self.trees[tree]
            known = {
                **bundled.hashes(("dialects", "root")),
                **{f"own {k}": v for k, v in own.hashes(("dialects",)).items()},
            }
            lines = [FORM_FIELDS, *(f"{name} {known[name]}" for name in sorted(known))]
            found = self._bases[tree] = digest("\n".join(lines).encode())
        return found

    def _manifest(self, tree: int, stem: str) -> Manifest:
        key = (tree, stem)
        found = self._manifests.get(key)
        if found is None:
            source = self.trees[tree]
            built = self._built(tree, "providers", stem) if stem else None
            if built is not None:
                name = source.name_of(source.files("providers")[stem], "providers")
                found = read_manifest_form(built, self._dialects_for(tree), origin=source.origin, file=name)
            else:
                found = self._read_manifest(tree, stem)
            if source.origin == "fetched":
                check_fetched(found, self.own_keys())  # refuses the ids and hosts of bundled providers
            elif source.origin == "given" and found.endpoint.variables:
                check_variables(found, self.own_keys())
            self._manifests[key] = found
        return found

    def _read_manifest(self, tree: int, stem: str) -> Manifest:
        source = self.trees[tree]
        document = self._document(tree, "providers" if stem else "single", stem)
        notes: list[str] = []
        ours = _is_ours(source, document)
        if not ours:
            from .promote import promote  # few read a file in the specification's own shape

            self.validator().check(document, "foreign")
            document, notes = promote(document, self._promotion(tree), strict=self._is_strict(tree))
        found = read_manifest(
            document,
            self._dialects_for(tree),
            origin=source.origin,
            strict=self._is_strict(tree),
            notes=notes,
            dialects=self.dialects,
            # Most programs use one of a provider's APIs, and what is bundled was read whole by whoever bundled it.
            checked=source.files("dialects") if source.origin == "bundled" else (),
        )
        if ours and source.origin != "bundled":  # what is bundled was held to more when the wheel was built
            self.validator().check(document, "provider_types")
        if source.origin == "bundled" and found.id != stem:
            raise document.where.at("id").error(f"expected the file's name {stem!r}, got {found.id!r}")
        return found

    def _is_strict(self, tree: int) -> bool:
        return self.strict or self.trees[tree].origin == "bundled"

    def _promotion(self, tree: int) -> Promotion:
        from .draft import Promotion

        spec = self._document(len(self.trees) - 1, "root", "spec").data
        return Promotion(
            self._dialects_for(tree),
            lambda: [self.dialect(name) for name in self.dialects()],
            spec["promotion"],
            spec["corrections"],
        )

    def own_keys(self) -> OwnKeys:
        """The variables and hosts that belong to the bundled set: what `trust` needs for manifests from elsewhere."""
        if self._own_keys is None:
            tree = len(self.trees) - 1
            self._own_keys = OwnKeys.of({stem: self._manifest(tree, stem) for stem in self._stems(tree)})
        return self._own_keys

    # ---- dialects

    def dialect(self, name: str) -> Dialect:
        """A dialect by id or alias, as the first source has it. Raises `CallerError` (bad_argument)."""
        for tree in range(len(self.trees)):
            found = self._dialect(tree, name)
            if found is not None:
                return found
        raise CallerError(f"no dialect is called {name!r}{suggestion(name, self.dialects())}", kind="bad_argument")

    def dialects(self) -> list[str]:
        """The id of every dialect, sorted."""
        return sorted({stem for tree in self.trees for stem in tree.files("dialects")})

    def _dialects_for(self, tree: int) -> Callable[[str], Dialect | None]:
        # A manifest's own source, then the bundled set: no source changes what another's providers are.
        def find(name: str) -> Dialect | None:
            return self._dialect(tree, name) or self._dialect(len(self.trees) - 1, name)

        return find

    def _dialect(self, tree: int, name: str) -> Dialect | None:
        source = self.trees[tree]
        if name not in source.files("dialects"):
            index = source.fresh_index() if source.files("dialects") else None
            if index is not None:
                stem = index.dialects.get(name, "")
                return self._read_dialect(tree, stem) if stem else None
            for stem in source.files("dialects"):
                if name in self._read_dialect(tree, stem).aliases:
                    return self._read_dialect(tree, stem)
            return None
        return self._read_dialect(tree, name)

    def _read_dialect(self, tree: int, stem: str) -> Dialect:
        key = (tree, stem)
        found = self._dialects.get(key)
        if found is None:
            document = self._document(tree, "dialects", stem)
            found = read_dialect(document, strict=self._is_strict(tree), notes=[])
            if self.trees[tree].origin != "bundled":
                self.validator().check(document, "dialect_types")
            if found.id != stem:
                raise document.where.at("id").error(f"expected the file's name {stem!r}, got {found.id!r}")
            self._dialects[key] = found
        return found

    # ---- models

    def models(self, provider: str | None = None) -> list[ModelFacts]:
        """Every registered model, or one provider's, in the order of the files.

        Every one is also what manifests from elsewhere list themselves, so each of those is read. Raises
        `ManifestError` for a file that cannot be used.
        """
        if provider is None:
            found = dict.fromkeys(self._all_models().models)
            for name in (*self.providers("given"), *self.providers("fetched")):
                found |= dict.fromkeys(self._models_of(self.provider(name).id).models)
            return list(found)
        return list(self._models_of(self.provider(provider).id).models)

    def resolve(self, model: str) -> ModelRef:
        """The provider, wire id and facts of a model as people write it.

        `provider/model` is that provider's, registered (by key, wire id or alias) or not: everything after the first
        slash goes on the wire. Without a known provider in front, the text is a registered key, wire id or alias
        that one provider alone has. Raises `CallerError`: unknown_provider, unknown_model, with the nearest names;
        bad_argument for a text that names no model.
        """
        text = model.strip()
        prefix, slash, rest = text.partition("/")
        if not text or (slash and not prefix) or (slash and not rest):
            raise CallerError(f"expected a model such as 'provider/model', got {model!r}", kind="bad_argument")
        # A known provider in front decides, also where another's registry has a key of that very text: a marketplace
        # that lists `maker/model` must not take over what is asked of the maker.
        if slash and self.has_provider(prefix):
            provider = self.provider(prefix).id
            facts = self._models_of(provider).of_provider(provider, rest)
            wire_id = facts.model_id if facts is not None else rest
            return ModelRef(provider, wire_id, f"{provider}/{rest}", facts)
        found = self._offers(text)
        if len(found) == 1:
            provider, facts = next(iter(found.items()))
            return ModelRef(self.provider(provider).id, facts.model_id, facts.ref, facts)
        if found:
            offered = ", ".join(f"{provider}/{text}" for provider in sorted(found))
            raise CallerError(f"{text!r} is offered by several providers; say which: {offered}", kind="unknown_model")
        if slash:
            raise self._unknown_provider(prefix)
        if self.has_provider(text):
            raise CallerError(f"{text!r} is a provider; say which model: {text}/...", kind="unknown_model")
        close = nearest(text, self._all_models().names())
        known = f"; did you mean {' or '.join(map(repr, close))}?" if close else "; write provider/model"
        raise CallerError(f"no model is called {text!r}{known}", kind="unknown_model")

    def _offers(self, name: str) -> dict[str, ModelFacts]:
        """Provider -> the model that answers to a name without a provider in front."""
        indexes = [tree.fresh_index() for tree in self.trees if tree.files("models")]
        found: dict[str, ModelFacts] = {}
        for index in indexes:
            if index is None:
                return self._all_models().anywhere(name)
            for provider, key in index.read_models().get(name, {}).items():
                facts = self._models_of(provider).of_provider(provider, key)
                if facts is not None:
                    found.setdefault(provider, facts)
        return found

    def _models_of(self, provider: str) -> Registry:
        # Our own trees keep a provider's models in a file of its name. Others name files by model family, so a tree
        # without such a file is read whole.
        found = self._registries.get(provider)
        if found is None:
            models: list[ModelFacts] = []
            for tree, source in enumerate(self.trees):
                files = source.files("models")
                if source.origin == "fetched" and not self._is_home(tree, provider):
                    continue  # what is fetched says nothing of another source's providers
                for stem in [provider] if provider in files else files if source.origin != "bundled" else ():
                    models += [facts for facts in self._read_models(tree, stem) if facts.provider == provider]
            place = self._place(provider)
            if place is not None and self.trees[place[0]].origin != "bundled":
                listed = self._manifest(*place).metadata.get("models")
                if listed:
                    spec = self._document(len(self.trees) - 1, "root", "spec").data
                    models += models_of_metadata(provider, listed, spec["promotion"]["model_capability_names"])
            found = self._registries[provider] = Registry(models)
        return found

    def _is_home(self, tree: int, provider: str) -> bool:
        place = self._place(provider)
        return place is not None and place[0] == tree

    def _all_models(self) -> Registry:
        if self._registry is None:
            models: list[ModelFacts] = []
            for tree, source in enumerate(self.trees):
                for stem in source.files("models"):
                    found = self._read_models(tree, stem)
                    if source.origin == "fetched":
                        found = [facts for facts in found if self._is_home(tree, facts.provider)]
                    models += found
            self._registry = Registry(models)
        return self._registry

    def _read_models(self, tree: int, stem: str) -> list[ModelFacts]:
        key = (tree, stem)
        found = self._models.get(key)
        built = self._built(tree, "models", stem) if found is None else None
        if built is not None:
            found = self._models[key] = read_models_form(built)
        if found is None:
            document = self.trees[tree].read("models", stem)  # not kept: the facts are all that anybody asks for
            strict = self._is_strict(tree)
            found = read_models(Reader(document.data, document.where, strict=strict, notes=[]))
            if self.trees[tree].origin != "bundled":
                self.validator().check(document, "models_types")
            if self.trees[tree].origin == "bundled":
                for facts in found:
                    if facts.provider != stem:
                        raise document.where.at("models", facts.key, "provider").error(
                            f"expected the file's name {stem!r}, got {facts.provider!r}"
                        )
            self._models[key] = found
        return found

    # ---- checks

    def validator(self) -> Validator:
        """The bundled JSON Schemas."""
        if self._validator is None:
            from .validator import Validator  # what is bundled was checked before

            root = next(folder for kind, folder in self.trees[-1].folders if kind == "root")
            self._validator = Validator(
                lambda name: bytes(root.joinpath("schemas", f"{name}.json").read_bytes()),
                is_generated=self.trees[-1].is_trusted,
            )
        return self._validator

    def check(self, tree: int = 0) -> list[ManifestError]:
        """Every fault of one source's files, in the order of the files: schemas, structs, and the checks across fields.

        The first source is the explicit path where one was given; -1 is the bundled set. Files in our own shape are
        held to our schemas, those of the specification to what every version must at least be.
        """
        number = range(len(self.trees))[tree]
        source = self.trees[number]
        if source.index() is not None:
            return self._from_sources(number).check(number)
        faults: list[ManifestError] = []

        def tried(step: Callable[[], object]) -> bool:
            try:
                step()
            except ManifestError as error:
                faults.append(error)
                return False
            return True

        for kind, schema in (("dialects", "dialect"), ("models", "models")):
            for stem, file in source.files(kind).items():
                if tried(lambda: self.validator().check(source.read_file(file, kind), schema)):  # noqa: B023 - called at once
                    reader = self._read_dialect if kind == "dialects" else self._read_models
                    tried(lambda: reader(number, stem))  # noqa: B023 - called at once
        for stem in list(source.files("providers")) or [""]:
            if not stem and source.single is None:
                continue
            tried(lambda: self._check_provider(number, stem, faults))  # noqa: B023 - called at once
        taken: dict[str, str] = {}
        for stem in source.files("providers"):
            for name in (stem, *(self._head(number, stem).get("aliases") or ())):
                if taken.setdefault(str(name), stem) != stem:
                    faults.append(ManifestError(f"{name!r} is a name of {taken[str(name)]} too", file=stem))
        return faults

    def _check_provider(self, tree: int, stem: str, faults: list[ManifestError]) -> None:
        source = self.trees[tree]
        file = source.files("providers")[stem] if stem else source.single
        document = source.read_file(file, "providers" if stem else "")
        ours = _is_ours(source, document)
        self.validator().check(document, "provider" if ours else "foreign")
        manifest = self._manifest(tree, stem)
        if source.origin == "bundled":
            from .validator import cross_faults

            faults.extend(cross_faults(manifest))

    # ---- dist

    def build(self, tree: int = -1) -> dict[str, bytes]:
        """The files of `dist/` for one source, by name: the same bytes for the same sources.

        Every file is loaded first. Raises `ManifestError` for the first file that cannot be used.
        """
        number = range(len(self.trees))[tree]
        source = self.trees[number]
        if source.index() is not None:
            return self._from_sources(number).build(number)
        manifests = {stem: self._manifest(number, stem) for stem in self._stems(number).values() if stem}
        dialects: dict[str, str] = {}
        for stem in source.files("dialects"):
            dialect = self._read_dialect(number, stem)
            dialects |= dict.fromkeys((dialect.id, *dialect.aliases), stem)
        listed = {stem: self._read_models(number, stem) for stem in source.files("models")}
        registry = Registry(facts for found in listed.values() for facts in found)
        models = {
            name: {provider: facts.key for provider, facts in registry.anywhere(name).items()}
            for name in registry.names()
        }
        files = {f"providers/{stem}.json": encode_manifest(found) for stem, found in manifests.items()}
        files |= {f"models/{stem}.json": encode_models(found) for stem, found in listed.items()}
        for kind in ("dialects", "root"):
            for stem in source.files(kind):
                document = self._document(number, kind, stem)
                files[f"{kind}/{stem}.json"] = encode_data(document.data, document.where)
        files["index.json"] = make_index(
            self._basis(number), source.hashes(KINDS), self._aliases(number), dialects, models
        )
        return files

    def convert(self, name: str, tree: int = 0) -> str:
        """A version 1 manifest of one source as the text of a version 2 file, with remarks as comments.

        Raises `CallerError` for what is no version 1 file, `ManifestError` for one that does not load.
        """
        from .convert import convert, yaml_text  # once in a program's life
        from .promote import promote

        number = range(len(self.trees))[tree]
        stem = {**self._aliases(number), **self._stems(number)}.get(name)
        if stem is None:
            raise self._unknown_provider(name)
        document = self._document(number, "providers" if stem else "single", stem)
        made, remarks = convert(document, self._promotion(number))
        before = manifest_tree(self._manifest(number, stem))
        again, _ = promote(Document(made, document.file, {}), self._promotion(number))
        origin = self.trees[number].origin
        after = manifest_tree(read_manifest(again, self._dialects_for(number), origin=origin, strict=False))
        for field in ("protocol_version", "notes", "file"):
            del before[field], after[field]
        differing = [field for field in before if before[field] != after[field]]
        if differing:
            remarks.append(f"not the same as before: {', '.join(differing)}")
        return yaml_text(made, remarks)

    def _from_sources(self, tree: int) -> Catalog:
        """The same catalogue, with one tree read from its sources alone."""
        trees = [one.without_dist() if number == tree else one for number, one in enumerate(self.trees)]
        return Catalog(trees, strict=self.strict)

    # ---- errors

    def error_table(self) -> ErrorRules:
        """What codes, statuses and messages mean where a manifest does not say (manifests/errors.yaml)."""
        if self._error_table is None:
            tree = len(self.trees) - 1
            document = self._document(tree, "root", "errors")
            self._error_table = read_error_rules(Reader(document.data, document.where, strict=True, notes=[]))
        return self._error_table


def _is_ours(source: Tree, document: Document) -> bool:
    """Whether a manifest is in our own shape, as all that is bundled is."""
    if source.origin == "bundled":
        return True
    from .promote import is_ours

    return is_ours(document.data)
