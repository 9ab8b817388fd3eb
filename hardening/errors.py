"""Everything this project raises on purpose.

HardeningError
  + InputError         something given from outside is wrong            (exit code 2)
  |   + ConfigError      the configuration
  |   + DataError        a dataset
  |   + ModelError       weights, an architecture or an ONNX file
  |   |   + NoTwin         an ONNX file that runs and that has no gradients
  |   |   + NoFloatForm    an int8 file of which no float file can be made
  |   + DigestError      bytes that are not the ones that were promised
  |   + ServiceError     a server that cannot be reached or refuses us
  + BrokenPromise      something of ours did not hold                    (exit code 3)
      + ThreatViolation  an attack left its threat model
      + ParityError      two forms of one model do not compute the same
      + NumericsError    a computation left the finite numbers
      + TrainingFailed   a training ends in a model that is of no use
      + ModelFailure     a model under attack raised, or changed itself
      + ChampionChanged  somebody else promoted while a run compared with the champion
"""


class HardeningError(Exception):
    """Base of all errors raised on purpose; its text is one line that a user can act on."""


class InputError(HardeningError, ValueError):
    """Something given from outside is wrong: nothing was started, nothing is written."""


class ConfigError(InputError):
    """The configuration names something unknown or gives it the wrong values."""


class DataError(InputError):
    """A dataset cannot be used as it is."""


class ModelError(InputError):
    """Weights, an architecture or an ONNX file cannot be used as they are."""


class NoTwin(ModelError):
    """An ONNX file runs, but no twin can be made of it: nothing follows its gradients."""


class NoFloatForm(ModelError):
    """An int8 file computes something of which there is no float form."""


class DigestError(InputError):
    """The bytes read are not the bytes that were promised."""


class ServiceError(InputError):
    """A server cannot be reached, or refuses what it is asked."""


class BrokenPromise(HardeningError):
    """Something of our own did not hold; the run ends and nothing is promoted."""


class ThreatViolation(BrokenPromise):
    """An attack returned an input outside its threat model; its result is void."""


class ParityError(BrokenPromise):
    """Two forms of one model (module, file, twin) do not compute the same logits."""


class NumericsError(BrokenPromise):
    """A computation produced a number that is not finite."""


class TrainingFailed(BrokenPromise):
    """A training ended in a model that answers one class, or withstands one attack alone."""


class ModelFailure(BrokenPromise):
    """A model raised or changed itself while it was attacked: what was measured is void."""


class ChampionChanged(BrokenPromise):
    """The champion is not the one that was measured: nothing was promoted, compare again."""
