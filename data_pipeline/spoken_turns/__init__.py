"""The TFDS builder of the one schema; a package of its own, as TFDS asks of builders."""
