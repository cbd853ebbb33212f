"""Build hook of the wheel: writes into it the commit that it was built from."""

import sys
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        if version == "editable":  # a clone is asked when somebody wants to know
            return
        sys.path.insert(0, str(Path(self.root, "runtime")))
        from clst_runtime.system.commit import FILE, UNKNOWN, commit_of

        commit, note = commit_of(Path(self.root)), ""
        if commit == UNKNOWN:
            note = ": this folder is no git clone, or git is not installed"
        elif commit.endswith("-dirty"):
            note = ": files differ from that commit; commit them first for a wheel that can be traced"
        self.app.display_warning(f"commit {commit}{note}")
        self.folder = tempfile.TemporaryDirectory()
        written = Path(self.folder.name, FILE.name)
        written.write_text(commit + "\n")
        build_data["force_include"][str(written)] = f"clst_runtime/system/{FILE.name}"

    def finalize(self, version: str, build_data: dict, artifact_path: str) -> None:
        if version != "editable":
            self.folder.cleanup()
