# A machine of {{ name }} {{ version }}: {{ digest }}.
job "{{ name }}" {
  type = "service"

  group "{{ name }}" {
    task "machine" {
      driver = "raw_exec"

      config {
        command = {{ imgrun | tojson }}
        args = [
          "run", "--cpus", "{{ cpus }}", "--memory", "{{ memory }}", "{{ hex }}"{% for word in command %},
          {{ word | tojson }}{% endfor %}

        ]
      }

      resources {
        cores  = {{ cpus }}
        memory = {{ memory + 128 }}
      }
    }
  }
}
