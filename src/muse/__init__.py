"""muse: text-video retrieval from cached CLIP patch tokens.

``muse.pipeline`` turns videos and captions into a feature store, ``muse.head`` turns a feature
store into a trained head and retrieval numbers, ``muse.cli`` is the command line. Importing this
package loads none of them.
"""

__version__ = "0.1.0"
