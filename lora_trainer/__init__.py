"""Personal LoRAs for MOVA, picture and sound: from a folder of clips to one adapter file."""
