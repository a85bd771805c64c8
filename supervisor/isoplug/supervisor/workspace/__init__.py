"""The workspace: file names, the confined filesystem, front matter, the root index and what is reachable from
it.

From the bottom up: `path` (names), `frontmatter` (YAML), `filesystem` (descriptors), `rootindex` (which file
grants permissions, and the guard around it), `fileset` (what the root index reaches). No module here checks
permissions.
"""

from isoplug.supervisor.workspace.fileset import workspace_file_set
from isoplug.supervisor.workspace.filesystem import (
    DirectoryEntry,
    FileStat,
    FileSystem,
    WorkspaceFilesystem,
)
from isoplug.supervisor.workspace.frontmatter import FrontmatterError
from isoplug.supervisor.workspace.path import WorkspacePath
from isoplug.supervisor.workspace.rootindex import (
    GuardedFilesystem,
    GuardRefusal,
    RootIndex,
    find_candidates,
    find_root_index,
)

__all__ = [
    "DirectoryEntry",
    "FileStat",
    "FileSystem",
    "FrontmatterError",
    "GuardRefusal",
    "GuardedFilesystem",
    "RootIndex",
    "WorkspaceFilesystem",
    "WorkspacePath",
    "find_candidates",
    "find_root_index",
    "workspace_file_set",
]
